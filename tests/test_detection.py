"""The benchmark of docs/detection.md: its measure against cases with a known answer, and a run of two steps."""
import json

import detection
import pytest
import torch
from torch import tensor

BOXES = tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
TARGETS = [dict(boxes=BOXES, labels=tensor([1, 1])), dict(boxes=BOXES[:1], labels=tensor([2]))]


def found(boxes, labels, scores):
    return dict(boxes=boxes, labels=tensor(labels), scores=tensor(scores))


@pytest.mark.parametrize(('first', 'second', 'expected'), [
    (found(BOXES, [1, 1], [0.9, 0.8]), found(BOXES[:1], [2], [0.7]), 1.0),
    (found(BOXES, [1, 1], [0.9, 0.8]), found(BOXES[:1], [1], [0.7]), 0.5),  # class 1 all, class 2 not at all
    (found(BOXES[:1], [1], [0.9]), found(BOXES[:1], [2], [0.7]), 0.75),  # half of class 1
    (found(BOXES[[0, 0, 1]], [1, 1, 1], [0.9, 0.8, 0.7]), found(BOXES[:1], [2], [0.7]), (5 / 6 + 1) / 2),  # one twice
    (found(BOXES + 8, [1, 1], [0.9, 0.8]), found(BOXES[:0], [], []), 0.0),  # beside them
])
def test_mean_average_precision(first, second, expected):
    assert detection.mean_average_precision([first, second], TARGETS) == pytest.approx(expected)


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    arguments = ['--base-steps', '1', '--steps', '2', '--seeds', '1', '--test-images', '2', '--output']
    detection.main([*arguments, str(tmp_path)])
    result = json.loads((tmp_path / 'detection.json').read_text())
    assert result['base']['settings'] == dict(base_rounds=2, base_steps=1, steps=2, test_images=2)
    curves = result['seed 1']['ap50']
    assert curves['without SE'].keys() == curves['with SE'].keys() == {'0', '1', '2'}
    assert (tmp_path / 'detection.png').stat().st_size > 0


def test_scenes():
    generator = torch.Generator().manual_seed(0)
    for noisy in (False, True):
        image, target = detection.scene([(torch.ones(8, 8), 3)], noisy, generator)
        assert image.shape == (3, 64, 64)
        assert len(target['boxes']) == len(target['labels']) >= 1
        assert (target['labels'] == 4).all()
        x0, y0, x1, y1 = target['boxes'][0].int().tolist()
        inside, ground = image[0, y0:y1, x0:x1].mean(), image[0].median()
        assert abs(inside - ground) > 0.2
