"""benchmarks/study.py end to end, a few steps an arm, on digits written as the files of Fashion-MNIST."""
import gzip
import json
import sys
from functools import partial
from statistics import median

import numpy as np
import pytest
import study
import study_cost
from sklearn.datasets import load_digits
from studies.arms import ARMS
from studies.earned import difference, write_report
from studies.record import Key, Record


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder of the four files, with 8 px digits in the middle of 28 px images."""
    folder = tmp_path_factory.mktemp('data')
    digits = load_digits()
    pixels = np.pad((digits.images * 15).astype(np.uint8), ((0, 0), (10, 10), (10, 10)))
    for name, part in (('train', slice(0, 200)), ('t10k', slice(200, 300))):
        for kind, values in (('images-idx3', pixels[part]), ('labels-idx1', digits.target[part].astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, '>i4').tobytes()
            (folder / f'{name}-{kind}-ubyte.gz').write_bytes(gzip.compress(header + values.tobytes()))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the study as the command does."""
    def run(data, *args):
        monkeypatch.setattr(sys, 'argv', list(map(str, [
            'study.py', '--data', data, '-o', tmp_path / 'results', '--work', tmp_path / 'work', '--layers', 1, 1, 1, 1,
            '--source-steps', 2, '--steps', 2, '--seeds', 2, '--batch-size', 4, '--tasks', 'fashion', '--optimizers',
            'sgd', *args])))
        study.main()
    return run


@pytest.mark.thorough
def test_study_end_to_end_cut_and_resumed(images, run, tmp_path):
    main = ('--arms', 'plain', 'plain_longer', 'se', 'se_fast')
    run(images, *main)
    path = tmp_path / 'results' / 'study' / 'fashion.json'
    kept = json.loads(path.read_text())
    runs = {Key(*(r[k] for k in Key._fields)): r for r in kept['runs']}
    arms = [a for a in ARMS if ARMS[a].main]
    grid = (0.006, 0.02, 0.06, 0.2)
    for arm in arms:
        tried = Record(path).tried('sgd', arm)
        assert set(grid) <= set(tried) <= {*grid, 0.002, 0.0006, 0.7, 2.0}
        assert len(tried) == 6 or Record(path).best_lr('sgd', arm) not in (min(tried), max(tried))
    assert len([key for key in runs if key.seed]) == len(arms) + 3 * 2  # the second seed, and the fresh ones
    for lr in grid:
        plain, se, longer = (runs[Key('sgd', a, lr, 0)] for a in ('plain', 'se', 'plain_longer'))
        assert se['curve']['0'] == plain['curve']['0']  # the function is the source's
        assert plain['spread'] is None
        assert se['spread'] > 0
        assert list(longer['curve'])[-1] == '3'  # 1.34 times the steps, rounded
    report = (tmp_path / 'results' / 'study.md').read_text()
    assert report.count('| SE as it comes |') + report.count('| SE, its learning rate 10 times |') == 3
    assert 'sgd, fresh seeds:' in report
    assert 'comparisons on fresh seeds** (fashion, sgd, SE' in report
    assert 'Not run: random gates (timm), BatchNorm carried; SE in stages 1 to 3; ' in report
    assert (tmp_path / 'results' / 'study.png').read_bytes().startswith(b'\x89PNG')

    (tmp_path / 'results' / 'study.md').unlink()
    last = kept['runs'].pop()
    path.write_text(json.dumps(kept))
    run(images, *main)
    again = json.loads(path.read_text())['runs']
    assert len(again) == len(runs)
    assert {k: v for k, v in again[-1].items() if k != 'seconds'} == {k: v for k, v in last.items() if k != 'seconds'}

    with pytest.raises(SystemExit, match='is of other settings'):
        run(images, '--steps', '3')
    assert len(json.loads(path.read_text())['runs']) == len(runs)


def test_learning_rate_and_winner_are_chosen_by_the_validation_part(tmp_path):
    record = Record(tmp_path / 'x.json', {}, {})
    for arm, lr, val, test in (('se', 0.1, 70.0, 99.0), ('se', 0.2, 80.0, 50.0), ('se_fast', 0.1, 75.0, 90.0),
                               ('plain', 0.1, 95.0, 95.0)):
        record.add(Key('sgd', arm, lr, 0), {'val': {'accuracy': val}, 'test': {'accuracy': test}})
    assert record.best_lr('sgd', 'se') == 0.2
    assert record.winners('sgd', 1) == ['se']  # plain is none of ours
    record.add(Key('sgd', 'se_fast', 0.1, 1), {'val': {'accuracy': 10.0}, 'test': {'accuracy': 10.0}})
    assert record.winners('sgd', 2) == ['se_fast']  # the other has still to be run with one seed
    assert record.winners('sgd', 3) == []
    record.add(Key('sgd', 'post', 0.1, 0), {'val': {'accuracy': 85.0}, 'test': {'accuracy': 0.0}})
    assert record.winners('sgd', 1) == ['se', 'post']  # of the main arms, and of all
    assert Record(tmp_path / 'x.json', {}, {}).runs == record.runs


def test_difference():
    mean, error = difference({0: 3.0, 1: 5.0, 2: 9.0}, {0: 1.0, 1: 1.0, 3: 0.0})
    assert (mean, error) == (3.0, 1.0)  # 2 and 4: their deviation, the root of 2, by the root of 2
    assert difference({0: 1.0}, {0: 1.0}) is None


@pytest.mark.parametrize(('gains', 'ahead'), [((1.0, 1.1), 1), ((-1.0, 3.0), 0), ((-1.0, -1.1), 0)])
def test_verdict_is_of_fresh_seeds_at_equal_compute(tmp_path, gains, ahead):
    settings = {
        'seeds': 2, 'size': 8, 'steps': 1, 'batch_size': 1, 'images': [1, 1, 1], 'longer': 1.5,
        'learning_rates': {'sgd': [0.1]}}
    record = Record(tmp_path / 'study' / 'digits.json', settings, {})
    result = {'curve': {'0': 0.0}, 'val': {'accuracy': 50.0}, 'spread': 0.1}
    for seed in range(4):  # far ahead of plain everywhere, and of plain at equal compute on the first seeds
        gain = gains[seed - 2] if seed > 1 else 9.0
        for arm, test in (('plain', 10.0), ('plain_longer', 50.0), ('se', 50.0 + gain)):
            record.add(Key('sgd', arm, 0.1, seed), {**result, 'test': {'accuracy': test}})
    write_report(tmp_path)
    report = (tmp_path / 'study.md').read_text()
    assert f'in {ahead} of 1 comparisons on fresh seeds** (digits, sgd, SE as it comes' in report


def test_missing_images_are_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match='apt-get install dataset-fashion-mnist'):
        run(tmp_path / 'none')


def test_cost_of_a_step_is_added_to_what_is_filed(tmp_path, monkeypatch):
    monkeypatch.setattr(study_cost, 'FILE', tmp_path / 'cost.json')
    monkeypatch.setattr(study_cost, 'SIZES', {'digits': 32})
    monkeypatch.setattr(sys, 'argv', ['study_cost.py', '--rounds', '2', '--batch-size', '2'])
    for count in (1, 2):
        study_cost.main()
        filed = json.loads((tmp_path / 'cost.json').read_text())
        ratios = [r[f'32 px, {o}']['ratio'] for r in filed['repetitions'] for o in ('sgd', 'adamw')]
        assert len(ratios) == 2 * count
        assert filed['factors'] == {'32': {'median': median(ratios), 'least': min(ratios), 'most': max(ratios)}}


def test_ratio_of_steps_is_of_neighbours():
    """What slows both by half now and then leaves the ratio as it is."""
    plain, se = (iter([factor * (1 + i % 3) for i in range(20)]) for factor in (2, 3))
    found = study_cost.compare(partial(next, plain), partial(next, se), 10)
    assert found['ratio'] == 1.5
    assert found['quartiles'] == [1.5, 1.5]
