"""Files that come into a folder all or none, and nothing else there is touched."""
import os
import resource
import time
from pathlib import Path

import pytest
import timm

from timm_se50 import save_checkpoint
from timm_se50.checkpoint import FILES, replace_files


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('error', [OSError(16, 'Device or resource busy'), KeyboardInterrupt()], ids=['busy', '^C'])
@pytest.mark.parametrize('failing', range(2))
@pytest.mark.parametrize('before', [(), FILES[:1], FILES], ids=len)
@pytest.mark.parametrize('new', [FILES[:2], FILES], ids=len)
def test_a_file_that_cannot_be_replaced_changes_none(error, failing, before, new, tmp_path, monkeypatch):
    """What was there is put back, and what was not goes."""
    for name in (*before, 'notes.txt'):
        (tmp_path / name).write_text(f'old {name}')
    here = contents(tmp_path)
    replace = os.replace

    def fail(source, target):
        taken = Path(source).parent.name == 'new' and Path(target).name == FILES[failing]
        if not taken or isinstance(error, KeyboardInterrupt):
            replace(source, target)
        if taken:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', fail)
        with pytest.raises(type(error)):
            replace_files(tmp_path, dict.fromkeys(new, b'new'))
    assert contents(tmp_path) == here
    replace_files(tmp_path, dict.fromkeys(new, b'new'))
    assert contents(tmp_path) == dict.fromkeys(new, b'new') | {'notes.txt': b'old notes.txt'}


def test_a_full_disk_is_named(tmp_path):
    replace_files(tmp_path, {'config.json': b'old'})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # as a full disk: writing past 1 MiB fails
    try:
        with pytest.raises(OSError, match=rf"File too large: '{tmp_path}'"):
            replace_files(tmp_path, {'config.json': b'new', 'model.safetensors': bytes(1 << 21)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == {'config.json': b'old'}


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'dangling').symlink_to(tmp_path / 'gone')
    (tmp_path / 'model' / 'config.json').mkdir(parents=True)
    for name, error in (('file', 'is a file; expected a folder'), ('dangling', 'is a file'), ('model', 'config.json')):
        with pytest.raises(OSError, match=error):
            replace_files(tmp_path / name, dict.fromkeys(FILES, b'new'))
    assert contents(tmp_path) == {'file': b''}


def test_nothing_of_the_users_is_removed_or_made(tmp_path):
    """Of whatever name and age: what another save, of this version or an earlier one, may have left there."""
    for name in ('.saving-photos', '.pulling-x', '.timm-se50-mine', 'photos'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'lock').write_text('mine')
        os.utime(tmp_path / name, (time.time() - 1e6,) * 2)
    before = contents(tmp_path)
    replace_files(tmp_path / 'model', {'config.json': b'new'})
    assert contents(tmp_path) == before | {'model/config.json': b'new'}
    with pytest.raises(ValueError, match='no SE blocks'):
        save_checkpoint(timm.create_model('resnet18'), tmp_path / 'deep' / 'er' / 'model')
    assert not (tmp_path / 'deep').exists()
