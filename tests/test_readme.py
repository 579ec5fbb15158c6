"""What the README states as figures, counted anew."""
import json
import re
from pathlib import Path
from statistics import mean, stdev

import pytest
import timm
import torch
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
    for row in re.findall(r'^\| .*? \| ([\d.]+) M, ([\d.]+) G \|$', README, re.MULTILINE):
        assert row in [(parameters, flops) for _, parameters, flops in ROWS[:2]]


@pytest.mark.parametrize('file', ['README.md', 'hub_cards/se_resnet50_replace.md', 'hub_cards/se_resnet50_patch.md'])
def test_step_0_table_is_the_studys(file):
    """Each row's three figures are those of an arm, in the runs that were filed."""
    record = Record(ROOT / 'benchmarks' / 'results' / 'start' / 'study' / 'fashion.json')
    measured = []
    for arm in record.arms('sgd'):
        curves = [run['curve'] for run in record.seeds('sgd', arm).values()]
        by_step = [[curve[step] for curve in curves] for step in ('0', '7', '64')]
        measured.append(tuple(f'{mean(v):.1f} ± {stdev(v):.1f}' for v in by_step))
        assert len(curves) == 5
    figure = r'\**([\d.]+ ± [\d.]+)\**'
    rows = re.findall(
        rf'^\| .*? \| {figure} \| {figure} \| {figure} \|$', (ROOT / file).read_text(), re.MULTILINE)
    assert rows == measured


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
    said = ' '.join(README.split()).split('as it comes, ours has')[1].split('With')[0]
    assert re.findall(r'\d\.\d\d', said) == [
        f'{inference[f"speed-{n}"]["speed"]["seresnet50"][name]:.2f}'
        for name in ('se_resnet50', 'resnet50 in the same form') for n in (1, 8)]
    names = [f'seresnet50, {engine}' for engine in ('compile', 'onnxruntime', 'openvino')]
    others = [(n, name) for n in (8, 1) for name in names]
    others += [(n, 'se_resnet50 reparameterized, openvino') for n in (8, 1)]
    others = [f'{inference[f"speed-{n}"]["speed"]["seresnet50"][name]:.2f}' for n, name in others]
    sentence = ' '.join(README.split()).split('At inference of')[1].split('All figures')[0]
    assert re.findall(r'\d\.\d\d', sentence) == others
    cells = [record['models'] for part, record in training.items() if ', 224, ' in part]
    for row, key in (
            ('bytes kept for the backward pass (less is better)', 'saved_ratio'),
            ('time of a training step', 'step_ratio_median')):
        expected = ['1.00']
        for name in ('seresnet50', 'memory_efficient'):
            ends = [f'{end([cell[name][key] for cell in cells]):.2f}' for end in (min, max)]
            expected += sorted(set(ends))
        assert _figures(rows[row]) == expected


def test_memory_kept_is_the_benchmarks():
    """The milliseconds in docs/inference.md."""
    filed = json.loads((ROOT / 'benchmarks' / 'results' / 'inference.json').read_text())['speed-8, memory kept']
    sentence = (ROOT / 'docs' / 'inference.md').read_text().split('(batch 8, memory kept)')[1].split('\n\n')[0]
    names = ('seresnet50', 'seresnet50, compile', 'seresnet50, onnxruntime')
    assert re.findall(r'\b\d{3}\b', sentence.split('What the parts')[0]) == [
        f'{filed["milliseconds"][name]:.0f}'
        for name in ('se_resnet50 reparameterized', *names, 'se_resnet50 reparameterized, openvino')]


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
