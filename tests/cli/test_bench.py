"""`timm-se50 bench` and benchmarks/training.py: each model runs, and the figures are the clock's."""
import json
import sys

import pytest
import timm
import torch
import training
from click.testing import CliRunner

from timm_se50.cli.bench import interleave, median_ratio
from timm_se50.cli.engines import make_run
from timm_se50.cli.main import main


@pytest.mark.parametrize(('options', 'last'), [([], 'reparameterized'), (['--train'], 'memory_efficient=True')])
def test_bench(options, last):
    arguments = ['bench', '--batch-size', '2', '--size', '32', '--rounds', '2', '--json', *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    figures = json.loads(result.stdout)
    assert list(figures) == ['resnet50', 'seresnet50', 'se_resnet50', last]
    assert figures['resnet50']['ratio'] == 1.0
    assert all(f['seconds'] > 0 and f['ratio'] > 0 for f in figures.values())


@torch.no_grad()
@pytest.mark.parametrize('engine', ['eager', 'onnxruntime', 'openvino'])
def test_engine_runs_the_model(engine):
    model = timm.create_model('resnet18').eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    expected = model(x)
    out = torch.as_tensor(make_run(engine, model, x)())
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(('options', 'said'), [
    (['--train', '--engine', 'compile'], 'training steps are timed'),
    (['--engine', 'onnxruntime', '--device', 'meta'], "Expected device='cpu'"),
])
def test_engine_that_cannot(options, said):
    result = CliRunner().invoke(main, ['bench', *options])
    assert result.exit_code == 1
    assert said in result.stderr


def test_device_that_is_not_here():
    result = CliRunner().invoke(main, ['bench', '--device', 'xpu'])
    assert result.exit_code == 1
    assert "device='xpu': " in result.stderr
    assert result.stderr.count('\n') == 1


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


@pytest.mark.thorough
def test_training_benchmark_keeps_what_it_does_not_measure(tmp_path, monkeypatch):
    arguments = ['training.py', '--batch-sizes', '2', '--image-sizes', '32', '--rounds', '1', '--warmup', '0']
    for layout in ('contiguous_format', 'channels_last'):
        monkeypatch.setattr(sys, 'argv', [*arguments, '--layouts', layout, '--out', str(tmp_path)])
        training.main()
    results = json.loads((tmp_path / 'training.json').read_text())
    assert list(results) == ['2, 32, contiguous', '2, 32, channels_last']
    for record in results.values():
        saved = {name: m['saved_ratio'] for name, m in record['models'].items()}
        assert saved['memory_efficient'] < saved['resnet50'] == 1 < saved['seresnet50']
    assert (tmp_path / 'training.md').read_text().count('| 2, 32, ') == 2
    assert (tmp_path / 'training.png').read_bytes().startswith(b'\x89PNG')
