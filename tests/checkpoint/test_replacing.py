"""Files that come into a folder all or none, and nothing else there is touched."""
import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest
import timm

from timm_se50 import save_checkpoint
from timm_se50.checkpoint import FILES, replacing

SMALL = dict(layers=(1, 1, 1, 1), channels=(16, 16, 16, 16), num_classes=2, se_reduction=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def make_busy(monkeypatch, path):
    """Have a file be one that no new file can take the place of, as where it is a mount point."""
    replace = os.replace

    def busy(source, target):
        if Path(target) == path and Path(source).parent.name == 'new':
            raise OSError(16, 'Device or resource busy', str(target))
        replace(source, target)

    monkeypatch.setattr(os, 'replace', busy)


@pytest.mark.parametrize('failing', range(3))
@pytest.mark.parametrize('before', [(), FILES[:1], FILES])
@pytest.mark.parametrize('links', [True, False])
def test_a_file_that_cannot_be_replaced_changes_none(failing, before, links, tmp_path, monkeypatch):
    """What was there is put back, and what was not goes."""
    folder = tmp_path / 'm'
    folder.mkdir()
    for name in before:
        (folder / name).write_text(f'old {name}')
    (folder / 'notes.txt').write_text('mine')
    here = contents(folder)

    def no_links(*args, **kwargs):
        raise OSError(18, 'Invalid cross-device link')

    make_busy(monkeypatch, folder / FILES[failing])
    if not links:
        monkeypatch.setattr(os, 'link', no_links)
    with pytest.raises(OSError, match=rf"busy: '.*{FILES[failing]}'"):
        save_checkpoint(timm.create_model('se_resnet50_patch', **SMALL), folder)
    assert contents(folder) == here
    monkeypatch.undo()
    save_checkpoint(timm.create_model('se_resnet50_patch', **SMALL), folder)
    assert sorted(contents(folder)) == sorted([*FILES, 'notes.txt'])


def test_an_interrupt_in_the_midst_puts_back(tmp_path, monkeypatch):
    (tmp_path / 'a').write_text('old')
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        if Path(source).parent.name == 'new':
            raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path, ['a', 'b']) as new:
        write(new, 'ab')
    assert contents(tmp_path) == {'a': b'old'}


def write(folder, names):
    for name in names:
        (folder / name).write_text('new')


def test_files_that_are_not_there_any_more_go_and_come_back(tmp_path, monkeypatch):
    for name in 'abc':
        (tmp_path / name).write_text(f'old {name}')
    here = contents(tmp_path)
    with monkeypatch.context() as patch:
        make_busy(patch, tmp_path / 'c')
        with pytest.raises(OSError, match='busy'), replacing(tmp_path, 'abc') as new:
            write(new, 'ac')
    assert contents(tmp_path) == here
    with replacing(tmp_path, 'abc') as new:
        write(new, 'ac')
    assert contents(tmp_path) == {'a': b'new', 'c': b'new'}


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copyfile', full)
    with pytest.raises(OSError, match=rf"\[Errno 28\] No space left on device: '{tmp_path}'"), \
            replacing(tmp_path, 'a') as new:
        shutil.copyfile('x', new)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('failing', [False, True])
def test_nothing_of_the_users_is_removed(failing, tmp_path):
    """Of whatever name and age: what another save, of this version or an earlier one, may have left there."""
    for name in ('.saving-photos', '.pulling-x', '.timm-se50-mine', 'photos'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'lock').write_text('mine')
        os.utime(tmp_path / name, (time.time() - 1e6,) * 2)
    before = contents(tmp_path)
    with contextlib.suppress(ValueError), replacing(tmp_path / 'model', 'a') as new:
        write(new, 'a')
        if failing:
            raise ValueError
    assert contents(tmp_path) == before | ({} if failing else {'model/a': b'new'})
    assert failing != (tmp_path / 'model').exists()
    with pytest.raises(ValueError, match='no SE blocks'):
        save_checkpoint(timm.create_model('resnet18'), tmp_path / 'deep' / 'er' / 'model')
    with pytest.raises(OSError, match='too long'):
        save_checkpoint(timm.create_model('se_resnet50_patch', **SMALL), tmp_path / 'deep' / ('x' * 300))
    assert not (tmp_path / 'deep').exists()
