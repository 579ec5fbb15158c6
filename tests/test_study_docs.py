"""What pages, README and cards state as the study's figures, counted anew from the runs that were filed."""
import json
import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest
import study
from studies.earned import difference, write_report
from studies.record import Record, measure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
README = (ROOT / 'README.md').read_text()
PAGE = (ROOT / 'docs' / 'study.md').read_text()
SAID = ' '.join(PAGE.split())
TASKS = {'solar': 'solar cells', 'fashion': 'Fashion-MNIST', 'digits': 'digits'}
ARMS = {'se': 'as it comes', 'se_fast': 'learning rate 10 times', 'pre': "position 'pre'"}


def with_error(found, places=2, sign='+'):
    return f'{found[0]:{sign}.{places}f} ± {found[1]:.{places}f}'


def spread(values, places=1):
    return with_error((mean(values), stdev(values)), places, '')


def comparisons():
    """Each arm that won, on the fresh seeds: task, optimizer, arm, what plain, plain longer and it have, by seed."""
    for task in TASKS:
        record = Record(RESULTS / 'study' / f'{task}.json')
        for optimizer in study.LEARNING_RATES:
            for arm in record.winners(optimizer, 5):
                yield task, optimizer, arm, *(
                    {s: measure(run['test']) for s, run in record.seeds(optimizer, name).items() if s in range(5, 10)}
                    for name in ('plain', 'plain_longer', arm))


def start_arms():
    """The start's runs by arm: plain, SE by this plugin, random gates, SE after each convolution."""
    record = Record(RESULTS / 'start' / 'study' / 'fashion.json')
    return [[*record.seeds('sgd', arm).values()] for arm in record.arms('sgd')]


def test_table_is_the_records():
    expected = []
    for task, optimizer, arm, *scores in comparisons():
        gains = [difference(scores[2], base) for base in scores[:2]]
        assert [len(values) for values in scores] == [5, 5, 5]
        expected.append([
            TASKS[task], optimizer, ARMS[arm], *(spread(values.values(), 2) for values in scores),
            *(f'**{with_error(g)}**' if abs(g[0]) > 2 * g[1] else with_error(g) for g in gains)])
    rows = re.findall(r'^\| (.*) \|$', PAGE.partition('## How')[0], re.MULTILINE)[2:]
    assert [row.split(' | ') for row in rows] == expected


def test_report_is_of_the_records(tmp_path):
    for name in ('.', 'start'):
        shutil.copytree(RESULTS / name / 'study', tmp_path / name / 'study')
        write_report(tmp_path / name)
        report = (RESULTS / name / 'study.md').read_text()
        assert (tmp_path / name / 'study.md').read_text() == report
    start = PAGE.partition('## The start')[2]
    assert re.findall(r'(\d\.\d\d ± \d\.\d\d)', start) == re.findall(r'-(\d\.\d\d ± \d\.\d\d)', report)


def test_equal_compute_is_what_was_measured():
    """The runs were made with the factors that the study has, and the page has these and what was measured."""
    factors = json.loads((RESULTS / 'study_cost.json').read_text())['factors']
    for task, size in study.SIZES.items():
        longer, filed = study.LONGER[task], factors[str(size)]
        assert Record(RESULTS / 'study' / f'{task}.json').data['settings']['longer'] == longer
        assert abs(longer - filed['median']) < 0.01
        assert f' {longer} times on' in SAID
        assert '{median:.3f} ({least:.3f} to {most:.3f})'.format(**filed) in SAID


def test_care_is_of_the_records():
    """What else the runs say of the one comparison that SE won: the seeds before, another learning rate."""
    record = Record(RESULTS / 'study' / 'solar.json')

    def tested(arm, lr, seeds):
        return {s: measure(record.runs['adamw', arm, lr, s]['test']) for s in seeds}
    best = {arm: record.best_lr('adamw', arm) for arm in ('se', 'plain_longer')}
    second = sorted(tried := record.tried('adamw', 'plain_longer'), key=tried.get)[-2]
    for seeds, lr in ((range(5), best['plain_longer']), (range(5, 10), second)):
        gain = difference(tested('se', best['se'], seeds), tested('plain_longer', lr, seeds))
        assert with_error(gain) in SAID
    assert f'learning rate of {second} ' in SAID


def test_readme_says_what_came_out():
    gains = {with_error((abs(gain), error), places, '') for *_, plain, longer, se in comparisons()
             for gain, error in (difference(se, plain), difference(se, longer)) for places in (1, 2)}
    said, = (part for part in README.split('\n\n') if '](docs/study.md)' in part)
    found = re.findall(r'[\d.]+ ± [\d.]*\d', said)
    assert found
    assert set(found) <= gains


def test_what_is_said_below_readmes_picture():
    plain, ours, *others = start_arms()
    said = README.partition('start/study.png)')[2].partition('```')[0]
    shares = [f'{mean(run["curve"]["0"] for run in runs):.1f}' for runs in (plain, *others)]
    assert re.findall(r'([\d.]+) %', said) == shares
    assert [run['curve']['0'] for run in ours] == [run['curve']['0'] for run in plain]
    loss = difference(*({i: run['test']['accuracy'] for i, run in enumerate(runs)} for runs in (plain, ours)))
    assert re.findall(r'[\d.]+ ± [\d.]+', said) == [with_error(loss, 1, '')]


@pytest.mark.parametrize('route', ['replace', 'patch'])
def test_the_cards_table(route):
    """Each row's three figures are those of an arm, in the runs that were filed."""
    card = (ROOT / 'hub_cards' / f'se_resnet50_{route}.md').read_text()
    figure = r'\**([\d.]+ ± [\d.]+)\**'
    rows = re.findall(rf'^\| .*? \| {figure} \| {figure} \| {figure} \|$', card, re.MULTILINE)
    for row, runs in zip(rows, start_arms(), strict=True):
        scores = [[run['curve'][step] for run in runs] for step in ('0', '7', '64')]
        assert list(row) == [spread(values) for values in scores]
