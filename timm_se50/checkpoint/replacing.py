"""Files that come into a folder all or none: written beside it first, what was there is kept until the end."""
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ['replacing']


@contextmanager
def replacing(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Give an empty folder to write into, whose files take the places of those of `names` in `folder` at the end.

    Each does so in one step, and one that was not written is removed. If anything fails, what was there is put back.

    Args:
        folder: The folder, made if need be, with an absolute path. It may be a mount point: the empty one is inside it.
        names: Files that may be written.

    Raises:
        OSError: One cannot be written, moved or removed.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file; expected a folder, or a name for a new one.')
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(f'{folder / name} is a folder, where a file is to be written; move it away.')
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix='.timm-se50-') as tmp:
            new, old = Path(tmp, 'new'), Path(tmp, 'old')
            new.mkdir()
            old.mkdir()
            yield new
            _move(new, old, folder, names)
    except BaseException as e:
        if made:
            with suppress(OSError):  # another process has put something there
                folder.rmdir()
        if isinstance(e, OSError) and e.errno is not None and e.filename is None:
            raise OSError(e.errno, e.strerror, str(folder)) from e  # as on a full disk
        raise


def _move(new: Path, old: Path, folder: Path, names: Sequence[str]) -> None:
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


def _keep(path: Path, copy: Path) -> None:
    """A second name for a file, or a copy where it can have none (another mount, a file system without links)."""
    try:
        os.link(path, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(path, copy, follow_symlinks=False)
