"""What README and pages state as figures, counted anew or as the benchmarks filed it."""
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
SETTINGS = re.findall(
    r'^\| (.*?) \| ([\d.]+) M \| ([\d.]+) G \|$', (ROOT / 'docs' / 'settings.md').read_text(), re.MULTILINE)


def filed(name):
    return json.loads((ROOT / 'benchmarks' / 'results' / f'{name}.json').read_text())


@pytest.mark.parametrize(('settings', 'parameters', 'flops'), SETTINGS)
def test_settings_table(settings, parameters, flops):
    name = 'resnet50' if 'resnet50' in settings else 'se_resnet50_patch'
    arguments = eval('dict(' + ','.join(re.findall(r'`(se_.*?)`', settings)) + ')')
    assert bool(arguments) == (name != 'resnet50')
    model = timm.create_model(name, device='meta', **arguments).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device='meta'))
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == parameters
    assert f'{counter.get_total_flops() / 1e9:.3f}' == flops


def test_settings_table_has_its_rows():
    assert len(SETTINGS) == 11


def test_int8_table():
    page = (ROOT / 'docs' / 'inference.md').read_text()
    found = re.findall(r'^\| .*, (?:float32|int8) \| ([\d.]+) % \| ([\d.]+) \| ([\d.]+) \|$', page, re.MULTILINE)
    assert found == [
        (f'{100 * r["accuracy"]:.1f}', f'{r["speed, batch 1"]:.2f}', f'{r["speed, batch 8"]:.2f}')
        for r in filed('int8')['int8']['rows'].values()]


def test_cost_table():
    expected = {}
    for batch in ('1', '8'):
        speed = filed('inference')[f'speed-{batch}']['speed']['seresnet50']
        expected[f'inference speed, batch {batch} (more is better)'] = [
            f'{speed[name]:.2f}' for name in ('resnet50', 'seresnet50', 'se_resnet50 reparameterized')]
    full = [record['models'] for part, record in filed('training').items() if ', 224, ' in part]
    half = [filed('pays/training')[f'8, {size}, channels_last, bfloat16']['models'] for size in (160, 224)]
    for row, key, cells in (
            ('bytes kept for the backward pass (less is better)', 'saved_ratio', full),
            ('time of a training step (less is better)', 'step_ratio_median', full),
            ('the same in bfloat16, 160 and 224 px', 'step_ratio_median', half)):
        expected[row] = ['1.00']
        for name in ('seresnet50', 'memory_efficient'):
            measured = [cell[name][key] for cell in cells]
            expected[row] += sorted({f'{min(measured):.2f}', f'{max(measured):.2f}'})
    rows = dict(re.findall(r'^\| ([^|]*) \| (.*) \|$', README, re.MULTILINE))
    number = r'(?<![\w.])\d+(?:\.\d+)?(?![\w.])'
    assert {row: [f'{float(n):.2f}' for n in re.findall(number, rows[row])] for row in expected} == expected


def test_when_less_memory_pays_in_time():
    """The table of docs/memory.md."""
    measured = filed('pays/training')
    page = (ROOT / 'docs' / 'memory.md').read_text()
    rows = re.findall(r'^\| ([RnN][^|]*), (\d+), (\d+) \| (.*) \|$', page, re.MULTILINE)
    assert len(rows) == 5
    for network, batch, size, figures in rows:
        part = f'{batch}, {size}, channels_last'
        halves = [measured[f'{part}{dtype}{", narrow" * network.startswith("narrow")}']['models']
                  for dtype in ('', ', bfloat16')]
        times = [
            f'{half[name]["step_ratio_median"]:.2f}' for half in halves for name in ('seresnet50', 'memory_efficient')]
        assert re.findall(r'\d\.\d\d', figures) == [*times, f'{halves[1]["memory_efficient"]["saved_ratio"]:.2f}']
        slower = [float(a) < float(b) for a, b in (times[:2], times[2:])]
        assert [f'**{t}**' in figures for t in times[1::2]] == slower


def test_detection_table():
    page = (ROOT / 'docs' / 'detection.md').read_text()
    results = filed('detection')
    rows = re.findall(r'^\| (\d), (with(?:out)? SE) \| (.*) \|$', page, re.MULTILINE)
    assert len(rows) == 2 * (len(results) - 1) >= 4
    for seed, arm, cells in rows:
        assert cells.split(' | ') == [f'{value:.1f}' for value in results[f'seed {seed}']['ap50'][arm].values()]
    assert f'precision of {results["base"]["ap50"]:.1f} %' in page


@pytest.mark.parametrize('file', ['README.md', 'SECURITY.md', 'CHANGELOG.md'])
def test_links_lead_somewhere(file):
    links = re.findall(r'\]\((?!http)(.*?)\)', (ROOT / file).read_text())
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_the_tests_that_pages_name_are_there():
    pages = ''.join(page.read_text() for page in (*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')))
    named = set(re.findall(r'`(?:tests/[\w/]*)?(test_\w+(?:\.py)?)`', pages))
    files = [*(ROOT / 'tests').rglob('test_*.py')]
    functions = re.findall(r'^def (test_\w+)', ''.join(file.read_text() for file in files), re.MULTILINE)
    assert len(named) > 10
    assert named <= {*functions, *(file.name for file in files)}
