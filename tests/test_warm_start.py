"""benchmarks/warm_start.py end to end, one step an arm, on digits written as the files of Fashion-MNIST."""
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]


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


def _run(images, folder, *args):
    command = [
        sys.executable, ROOT / 'benchmarks' / 'warm_start.py', '--data', images, '-o', folder / 'results', '--work',
        folder / 'work', '--source-steps', '2', '--steps', '1', '--seeds', '1', '--batch-size', '4', '--test-images',
        '12', *args]
    return subprocess.run(list(map(str, command)), env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
                          capture_output=True, text=True, check=False)


def test_study_end_to_end_cut_and_resumed(images, tmp_path):
    done = _run(images, tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / 'results' / 'warm_start.json'
    study = json.loads(path.read_text())
    runs = {(r['task'], r['arm']): r for r in study['runs']}
    arms = {'plain', 'se_replace', 'se_patch', 'se_fast', 'se_random', 'se_fresh_bn', 'se_composer', 'se_only'}
    assert set(runs) == {(t, a) for t in ('fashion', 'digits') for a in arms - set(study['left_out'])}
    for task in ('fashion', 'digits'):
        plain, ours, patched = (runs[task, a] for a in ('plain', 'se_replace', 'se_patch'))
        # the function is the source's, so is the loss of the first batch; the weights then move apart
        assert ours['loss'] == plain['loss']
        assert ours['accuracy']['0'] == plain['accuracy']['0']
        assert [ours[k] for k in ('loss', 'accuracy', 'state_sha256')] == [
            patched[k] for k in ('loss', 'accuracy', 'state_sha256')]
        assert runs[task, 'se_random']['loss'] != plain['loss']
        assert runs[task, 'se_fresh_bn']['loss'] == runs[task, 'se_random']['loss']  # train mode uses no statistics
    assert len({r['state_sha256'] for r in runs.values()}) == len(runs) - 2
    table = (tmp_path / 'results' / 'warm_start.md').read_text()
    assert table.count('| SE by this plugin | 1 |') == 2
    assert 'equal bit for bit' in table
    assert (tmp_path / 'results' / 'warm_start.png').read_bytes().startswith(b'\x89PNG')

    lost = [r for r in study['runs'] if (r['task'], r['arm']) == ('digits', 'se_only')]
    path.write_text(json.dumps(study | {'runs': [r for r in study['runs'] if r not in lost]}))
    resumed = _run(images, tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count('1/1') == 1  # one run, the lost one
    again = json.loads(path.read_text())['runs']
    assert len(again) == len(runs)
    for key in ('loss', 'accuracy', 'state_sha256'):
        assert again[-1][key] == lost[0][key]

    other = _run(images, tmp_path, '--lr', '0.5')
    assert other.returncode == 1
    assert 'is of other settings' in other.stderr
    assert len(json.loads(path.read_text())['runs']) == len(runs)


def test_missing_images_are_named(tmp_path):
    done = _run(tmp_path / 'none', tmp_path)
    assert done.returncode == 1
    assert 'apt-get install dataset-fashion-mnist' in done.stderr


def test_the_documentation_shows_the_results_in_the_repository():
    results = (ROOT / 'benchmarks' / 'results' / 'warm_start.md').read_text()
    assert results in (ROOT / 'docs' / 'study.md').read_text()
