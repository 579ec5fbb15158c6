"""What the README states as figures, counted anew."""
import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
import timm
import torch
from studies.earned import difference
from studies.record import Record
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
SETTINGS = (ROOT / 'docs' / 'settings.md').read_text()
ROWS = re.findall(r'^\| (.*?) \| ([\d.]+) M \| ([\d.]+) G \|$', SETTINGS, re.MULTILINE)


@pytest.mark.parametrize(('settings', 'parameters', 'flops'), ROWS)
def test_settings_table(settings, parameters, flops):
    name = 'resnet50' if 'resnet50' in settings else 'se_resnet50_patch'
    arguments = eval('dict(' + ','.join(re.findall(r'`(se_.*?)`', settings)) + ')')
    assert bool(arguments) == (name != 'resnet50')
    model = timm.create_model(name, device='meta', **arguments).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device='meta'))
    assert f'{sum(p.numel() for p in model.parameters()) / 1e6:.2f}' == parameters
    assert f'{counter.get_total_flops() / 1e9:.3f}' == flops


def test_there_are_rows():
    assert len(ROWS) == 11


def start_arms():
    """The start's runs by arm: plain, SE by this plugin, random gates, SE after each convolution."""
    record = Record(ROOT / 'benchmarks' / 'results' / 'start' / 'study' / 'fashion.json')
    return [[*record.seeds('sgd', arm).values()] for arm in record.arms('sgd')]


@pytest.mark.parametrize('file', ['hub_cards/se_resnet50_replace.md', 'hub_cards/se_resnet50_patch.md'])
def test_step_0_table_is_the_studys(file):
    """Each row's three figures are those of an arm, in the runs that were filed."""
    measured = []
    for runs in start_arms():
        by_step = [[run['curve'][step] for run in runs] for step in ('0', '7', '64')]
        measured.append(tuple(f'{mean(v):.1f} ± {stdev(v):.1f}' for v in by_step))
        assert len(runs) == 5
    figure = r'\**([\d.]+ ± [\d.]+)\**'
    rows = re.findall(
        rf'^\| .*? \| {figure} \| {figure} \| {figure} \|$', (ROOT / file).read_text(), re.MULTILINE)
    assert rows == measured


def test_what_is_said_below_the_picture_is_the_studys():
    plain, ours, *others = start_arms()
    said = README.partition('start/study.png)')[2].partition('```')[0]
    shares = [f'{mean(run["curve"]["0"] for run in runs):.1f}' for runs in (plain, *others)]
    assert re.findall(r'([\d.]+) %', said) == shares
    assert [run['curve']['0'] for run in ours] == [run['curve']['0'] for run in plain]
    loss, error = difference(*({i: run['test']['accuracy'] for i, run in enumerate(runs)} for runs in (plain, ours)))
    assert re.findall(r'[\d.]+ ± [\d.]+', said) == [f'{loss:.1f} ± {error:.1f}']


def test_int8_table_is_the_benchmarks():
    rows = json.loads((ROOT / 'benchmarks' / 'results' / 'int8.json').read_text())['int8']['rows'].values()
    page = (ROOT / 'docs' / 'inference.md').read_text()
    found = re.findall(r'^\| .*, (?:float32|int8) \| ([\d.]+) % \| ([\d.]+) \| ([\d.]+) \|$', page, re.MULTILINE)
    assert found == [
        (f'{100 * r["accuracy"]:.1f}', f'{r["speed, batch 1"]:.2f}', f'{r["speed, batch 8"]:.2f}') for r in rows]


def test_cost_table_is_the_benchmarks():
    """Each row of it is what was measured and filed."""
    results = ROOT / 'benchmarks' / 'results'
    inference, training = (json.loads((results / f'{name}.json').read_text()) for name in ('inference', 'training'))
    rows = dict(re.findall(r'^\| ([^|]*) \| (.*) \|$', README, re.MULTILINE))
    models = ('resnet50', 'seresnet50', 'se_resnet50 reparameterized')
    for batch_size in ('1', '8'):
        speed = inference[f'speed-{batch_size}']['speed']['seresnet50']
        row, = (row for name, row in rows.items() if name.startswith(f'inference speed, batch {batch_size}'))
        assert _figures(row) == [f'{speed[name]:.2f}' for name in models]
    cells = [record['models'] for part, record in training.items() if ', 224, ' in part]
    for row, key in (
            ('bytes kept for the backward pass (less is better)', 'saved_ratio'),
            ('time of a training step (less is better)', 'step_ratio_median')):
        expected = ['1.00']
        for name in ('seresnet50', 'memory_efficient'):
            ends = [f'{end([cell[name][key] for cell in cells]):.2f}' for end in (min, max)]
            expected += sorted(set(ends))
        assert _figures(rows[row]) == expected


def test_bfloat16_is_what_was_measured():
    """README's row, and docs/memory.md's table of when less memory pays in time."""
    measured = json.loads((ROOT / 'benchmarks' / 'results' / 'pays' / 'training.json').read_text())
    cells = [measured[f'8, {size}, channels_last, bfloat16']['models'] for size in (160, 224)]
    row, = (row for row in README.splitlines() if row.startswith('| the same in bfloat16'))
    expected = [f'{end(c[name]["step_ratio_median"] for c in cells):.2f}'
                for name in ('seresnet50', 'memory_efficient') for end in (min, max)]
    assert re.findall(r'\d\.\d\d', row) == expected
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


def _figures(row):
    """The numbers in a row, with two places."""
    return [f'{float(number):.2f}' for number in re.findall(r'(?<![\w.])\d+(?:\.\d+)?(?![\w.])', row)]


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
