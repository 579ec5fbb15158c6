"""What docs/study.md and README state as the study's figures, counted anew from the runs that were filed."""
import json
import re
import shutil
from pathlib import Path
from statistics import mean, stdev

import study
from studies.earned import difference, write_report
from studies.record import Record, measure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
PAGE = (ROOT / 'docs' / 'study.md').read_text()
SAID = ' '.join(PAGE.split())
TASKS = {'solar': 'solar cells', 'fashion': 'Fashion-MNIST', 'digits': 'digits'}
ARMS = {'se': 'as it comes', 'se_fast': 'learning rate 10 times', 'pre': "position 'pre'"}


def comparisons():
    """Each arm that won, on the fresh seeds: task, optimizer, arm, what plain, plain longer and it have, by seed."""
    for task in TASKS:
        record = Record(RESULTS / 'study' / f'{task}.json')
        for optimizer in study.LEARNING_RATES:
            for arm in record.winners(optimizer, 5):
                yield task, optimizer, arm, *(
                    {s: measure(run['test']) for s, run in record.seeds(optimizer, name).items() if s in range(5, 10)}
                    for name in ('plain', 'plain_longer', arm))


def test_table_is_the_records():
    expected = []
    for task, optimizer, arm, plain, longer, se in comparisons():
        assert [len(values) for values in (plain, longer, se)] == [5, 5, 5]
        scores = [f'{mean(values.values()):.2f} ± {stdev(values.values()):.2f}' for values in (plain, longer, se)]
        gains = ['{:+.2f} ± {:.2f}'.format(*difference(se, base)) for base in (plain, longer)]
        expected.append([TASKS[task], optimizer, ARMS[arm], *scores, *gains])
    rows = re.findall(r'^\| (.*) \|$', PAGE.partition('## How')[0], re.MULTILINE)[2:]
    assert [row.replace('*', '').split(' | ') for row in rows] == expected
    assert re.findall(r'\*\*(.*?)\*\*', ''.join(rows)) == [
        gain for row in expected for gain in row[-2:] if abs(float(gain.split()[0])) > 2 * float(gain.split()[-1])]


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
        assert '{:+.2f} ± {:.2f}'.format(*gain) in SAID
    assert f'learning rate of {second} ' in SAID


def test_readme_says_what_came_out():
    gains = {f'{abs(gain):.{places}f} ± {error:.{places}f}' for *_, plain, longer, se in comparisons()
             for gain, error in (difference(se, plain), difference(se, longer)) for places in (1, 2)}
    said, = (part for part in (ROOT / 'README.md').read_text().split('\n\n') if '](docs/study.md)' in part)
    found = re.findall(r'[\d.]+ ± [\d.]*\d', said)
    assert found
    assert set(found) <= gains
