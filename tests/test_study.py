"""benchmarks/study.py end to end, a few steps an arm, on digits written as the files of Fashion-MNIST."""
import gzip
import json
import sys

import numpy as np
import pytest
import study
from sklearn.datasets import load_digits
from studies.earned import difference
from studies.record import Key, Record


@pytest.fixture
def images(tmp_path):
    """A folder of the four files, with 8 px digits in the middle of 28 px images."""
    digits = load_digits()
    pixels = np.pad((digits.images * 15).astype(np.uint8), ((0, 0), (10, 10), (10, 10)))
    for name, part in (('train', slice(0, 200)), ('t10k', slice(200, 300))):
        for kind, values in (('images-idx3', pixels[part]), ('labels-idx1', digits.target[part].astype(np.uint8))):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, '>i4').tobytes()
            (tmp_path / f'{name}-{kind}-ubyte.gz').write_bytes(gzip.compress(header + values.tobytes()))
    return tmp_path


@pytest.mark.thorough
def test_study_end_to_end_cut_and_resumed(images, tmp_path, monkeypatch):
    def run(steps=2):
        monkeypatch.setattr(sys, 'argv', list(map(str, [
            'study.py', '--data', images, '-o', tmp_path / 'results', '--work', tmp_path / 'work', '--layers', 1, 1, 1,
            1, '--source-steps', 2, '--steps', steps, '--seeds', 2, '--batch-size', 4, '--tasks', 'fashion',
            '--optimizers', 'sgd', '--arms', 'plain', 'plain_longer', 'se', 'se_fast'])))
        study.main()

    run()
    path = tmp_path / 'results' / 'study' / 'fashion.json'
    record = Record(path)
    assert len([key for key in record.runs if key.seed]) == 4 + 3 * 2  # the second seed, and the fresh ones
    for lr in (0.006, 0.02, 0.06, 0.2):
        plain, se, longer = (record.runs['sgd', arm, lr, 0] for arm in ('plain', 'se', 'plain_longer'))
        assert se['curve']['0'] == plain['curve']['0']  # the function is the source's
        assert se['spread'] > 0
        assert list(longer['curve'])[-1] == '3'  # 1.34 times the steps, rounded
    assert 'comparisons on fresh seeds** (fashion, sgd, SE' in (tmp_path / 'results' / 'study.md').read_text()
    assert (tmp_path / 'results' / 'study.png').read_bytes().startswith(b'\x89PNG')

    last = record.data['runs'].pop()
    path.write_text(json.dumps(record.data))
    run()
    again = Record(path).data['runs']
    assert len(again) == len(record.runs)
    assert {**again[-1], 'seconds': 0} == {**last, 'seconds': 0}
    with pytest.raises(SystemExit, match='is of other settings'):
        run(steps=3)


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
