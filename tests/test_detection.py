"""The benchmark of docs/detection.md: its measure against cases with a known answer, and a run of two steps."""
import json
import re
from pathlib import Path

import detection
import pytest
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


def test_the_page_states_what_was_filed():
    """Every figure of its table, and the plain detector's."""
    root = Path(__file__).parents[1]
    page = (root / 'docs/detection.md').read_text()
    filed = json.loads((root / 'benchmarks/results/detection.json').read_text())
    rows = re.findall(r'^\| (\d), (with(?:out)? SE) \| (.*) \|$', page, re.MULTILINE)
    assert len(rows) == 2 * (len(filed) - 1) >= 4
    for seed, arm, cells in rows:
        assert cells.split(' | ') == [f'{value:.1f}' for value in filed[f'seed {seed}']['ap50'][arm].values()]
    assert f'precision of {filed["base"]["ap50"]:.1f} %' in page
