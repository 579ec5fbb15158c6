"""Files that come into a folder all or none, and what a killed process left there."""
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import timm

import timm_se50.checkpoint.staging as staging_module
from timm_se50 import save_checkpoint
from timm_se50.checkpoint import FILES
from timm_se50.checkpoint.staging import install, staging

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
    with staging(tmp_path, '.saving-') as new:
        for name in 'ab':
            (new / name).write_text('new')
        with pytest.raises(KeyboardInterrupt):
            install(new, tmp_path, ['a', 'b'])
    assert contents(tmp_path) == {'a': b'old'}


def test_files_that_are_not_there_any_more_go_and_come_back(tmp_path, monkeypatch):
    for name in 'abc':
        (tmp_path / name).write_text(f'old {name}')
    here = contents(tmp_path)
    with staging(tmp_path, '.saving-') as new:
        for name in 'ac':
            (new / name).write_text('new')
        with monkeypatch.context() as patch:
            make_busy(patch, tmp_path / 'c')
            with pytest.raises(OSError, match='busy'):
                install(new, tmp_path, 'abc')
    assert contents(tmp_path) == here
    with staging(tmp_path, '.saving-') as new:
        for name in 'ac':
            (new / name).write_text('new')
        install(new, tmp_path, 'abc')
    assert contents(tmp_path) == {'a': b'new', 'c': b'new'}


def test_another_process_makes_the_folder_first(tmp_path, monkeypatch):
    """As each of a run's processes would that saves where one is meant to."""
    rename = os.rename

    def later(source, target):
        Path(target).mkdir()
        (Path(target) / 'a').write_text("another's")
        rename(source, target)

    monkeypatch.setattr(os, 'rename', later)
    with staging(tmp_path / 'm', '.saving-') as new:
        (new / 'a').write_text('new')
        install(new, tmp_path / 'm', 'a')
    assert contents(tmp_path) == {'m/a': b'new'}


KILLED = """
import runpy, sys, time
from pathlib import Path
staging = runpy.run_path(sys.argv[2])['staging']  # by itself, without an import of torch
with staging(Path(sys.argv[1]), '.saving-') as new:
    (new / 'model.safetensors').write_bytes(bytes(1 << 20))
    print('ready', flush=True)
    time.sleep(60)
"""


def test_what_a_killed_save_left_is_swept(tmp_path, monkeypatch):
    """And not what one that lives is about to move."""
    command = [sys.executable, '-c', KILLED, str(tmp_path), staging_module.__file__]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == b'ready\n'
    left = sorted(p.name for p in tmp_path.iterdir())
    assert len(left) == 2
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    try:
        with staging(tmp_path, '.pulling-'):  # they are too new to tell
            assert set(left) < {p.name for p in tmp_path.iterdir()}
        monkeypatch.setattr(staging_module, '_NEW', -1)
        with staging(tmp_path, '.pulling-'):
            pass
        [alive] = tmp_path.iterdir()
        assert (alive / 'new' / 'model.safetensors').stat().st_size == 1 << 20
    finally:
        processes[1].kill()
        for process in processes:
            process.wait()
            process.stdout.close()
    with staging(tmp_path, '.saving-'):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_its_own_folders_are_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(staging_module, '_NEW', -1)
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / 'mine').write_text('mine')
    (tmp_path / '.saving-link').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / '.saving-file').write_text('mine')
    with staging(tmp_path, '.saving-'):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.saving-file', '.saving-link', 'elsewhere']
    assert (tmp_path / 'elsewhere' / 'mine').read_text() == 'mine'


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copyfile', full)
    with pytest.raises(OSError, match=rf"\[Errno 28\] No space left on device: '{tmp_path}'"), \
            staging(tmp_path, '.pulling-') as new:
        shutil.copyfile('x', new)
    assert list(tmp_path.iterdir()) == []
