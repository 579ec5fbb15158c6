"""Files that come into a folder all or none: written beside it first, what was there is kept until the end."""
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ['check_place', 'install', 'staging']

_PREFIXES = ('.saving-', '.pulling-')
_NEW = 60  # seconds that a folder is left alone, since its process may not have locked it yet


@contextmanager
def staging(folder: Path, prefix: str) -> Iterator[Path]:
    """Make an empty folder to write into, which is removed at the end.

    It lies inside `folder` if there is one, which may be a mount point: a file moves within one file system only. It is
    locked as long as this process lives; those that a killed one left are removed.

    Args:
        folder: Folder that `install` is for, with an absolute path; its parents are made.
        prefix: Of the name, one of `_PREFIXES`.
    """
    place = folder if folder.exists() else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    tmp = Path(tempfile.mkdtemp(dir=place, prefix=prefix))
    try:
        with FileLock(tmp / 'lock'):
            new = tmp / 'new'
            new.mkdir()
            yield new
    except OSError as e:
        if e.errno is None or e.filename is not None:
            raise
        raise OSError(e.errno, e.strerror, str(folder)) from e  # as on a full disk
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def install(new: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files from a folder of `staging` to `folder`, each in one step; those of `names` that it lacks are removed.

    Raises:
        OSError: One cannot be moved; what was there is put back.
    """
    check_place(folder, names)
    if not folder.exists():
        try:
            os.rename(new, folder)
            return
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process has just made it
                raise
    old = new.with_name('old')
    old.mkdir()
    for name in names:
        if os.path.lexists(folder / name):
            _keep(folder / name, old / name)
    try:
        for name in names:
            if (new / name).exists():
                os.replace(new / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    except BaseException:
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
            elif not (new / name).exists():  # it has been moved
                (folder / name).unlink(missing_ok=True)
        raise


def check_place(folder: Path, names: Sequence[str]) -> None:
    """Raise an OSError where a file of these names could not be put."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file; expected a folder, or a name for a new one.')
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(f'{folder / name} is a folder, where a file is to be written; move it away.')


def _keep(path: Path, copy: Path) -> None:
    """A second name for a file, or a copy where it can have none (another mount, a file system without links)."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, copy, follow_symlinks=False)


def _sweep(place: Path) -> None:
    """Remove what processes left that were killed."""
    for tmp in place.iterdir():
        try:
            if tmp.name.startswith(_PREFIXES) and not tmp.is_symlink() and time.time() - tmp.stat().st_mtime > _NEW:
                with FileLock(tmp / 'lock', timeout=0):
                    shutil.rmtree(tmp, ignore_errors=True)
        except (Timeout, OSError):  # its process lives, or it is another user's
            pass
