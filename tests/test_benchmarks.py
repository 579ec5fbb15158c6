"""What the benchmarks measure with: their loop, engines and precision, against cases with a known answer."""
import detection
import pytest
import timm
import torch
from timing import interleave, make_run, median_ratio
from torch import tensor

BOXES = tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
TARGETS = [dict(boxes=BOXES), dict(boxes=BOXES[:1])]


@pytest.mark.parametrize(('first', 'scores', 'second', 'expected'), [
    (BOXES, [0.9, 0.8], BOXES[:1], 1.0),
    (BOXES[:1], [0.9], BOXES[:1], 2 / 3),  # one is not found
    (BOXES[[0, 0, 1]], [0.9, 0.8, 0.7], BOXES[:1], (1 + 2 / 3 + 3 / 4) / 3),  # one is found twice
    (BOXES, [0.9, 0.8], BOXES[1:], 2 / 3),  # the last and least sure is wrong
    (BOXES + 8, [0.9, 0.8], BOXES[:0], 0.0),  # beside them
])
def test_average_precision(first, scores, second, expected):
    found = [dict(boxes=first, scores=tensor(scores)), dict(boxes=second, scores=tensor([0.6] * len(second)))]
    assert detection.average_precision(found, TARGETS) == pytest.approx(expected)


def test_interleaved_by_a_clock_that_is_known():
    """Each round runs all, in an order of its own; a slow round slows all of it, so the median ratio stays."""
    now, ran = [0.0], []

    def run(name, seconds):
        slow = 5 <= len(ran) // 2 < 7  # rounds 5 and 6
        ran.append(name)
        now[0] += seconds * (10 if slow else 1)

    times = interleave({'a': lambda: run('a', 1), 'b': lambda: run('b', 2)}, 20, warmup=0, clock=lambda: now[0])
    rounds = list(zip(ran[::2], ran[1::2]))
    assert set(rounds) == {('a', 'b'), ('b', 'a')}
    assert times == {'a': [1] * 5 + [10] * 2 + [1] * 13, 'b': [2] * 5 + [20] * 2 + [2] * 13}
    assert median_ratio(times['b'], times['a']) == 2


@torch.no_grad()
@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_engine_runs_the_model(engine):
    model = timm.create_model('resnet18').eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    expected = model(x)
    out = torch.as_tensor(make_run(engine, model, x)())
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
