"""`timm-se50 bench`: each model runs, and the figures are those of the clock. How fast is not tested."""
import itertools
import json

import pytest
from click.testing import CliRunner

from timm_se50.bench import interleave, median_ratio
from timm_se50.cli import main


@pytest.mark.parametrize(('options', 'last'), [([], 'reparameterized'), (['--train'], 'memory_efficient=True')])
def test_bench(options, last):
    arguments = ['bench', '--batch-size', '2', '--size', '32', '--rounds', '2', '--json', *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    figures = json.loads(result.stdout)
    assert list(figures) == ['resnet50', 'seresnet50', 'se_resnet50', last]
    assert figures['resnet50']['ratio'] == 1.0
    assert all(f['seconds'] > 0 and f['ratio'] > 0 for f in figures.values())


def test_interleaved_by_a_clock_that_is_known():
    """Each round runs all in turn; a slow round slows all of it, so the median ratio stays."""
    now, order, pace = [0.0], [], itertools.cycle([1, 1, 10])

    def run(name, seconds):
        order.append(name)
        if name == 'a':
            run.pace = next(pace)
        now[0] += seconds * run.pace

    times = interleave({'a': lambda: run('a', 1), 'b': lambda: run('b', 2)}, 3, warmup=0, clock=lambda: now[0])
    assert order == ['a', 'b'] * 3
    assert times == {'a': [1, 1, 10], 'b': [2, 2, 20]}
    assert median_ratio(times['b'], times['a']) == 2
