"""Files of a Hub repo into its folder in the cache, each under the hash that the Hub states for it.

The folder is laid out as huggingface_hub has it, so that its own programs find the files there. Its download does not
do: it names a file by the `ETag` of an answer, so that a server chooses a path on this machine; it looks at sizes only,
so that a changed byte is cached under the good hash; and a server that never comes to an end is listened to for ever.
"""
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from .errors import download
from .stated import Stated, file_hash

__all__ = ['Fetch', 'note_revision']

_SLACK = 1 << 16  # bytes that a small file may come out longer, besides


class Fetch:
    """A file that is taken from the cache, or downloaded; what lies in the cache is hashed in the background.

    Args:
        repo_id: Repo on the Hub.
        name: Name of the file.
        commit: Commit to take it from.
        stated: What the Hub states about it.
        storage: Folder of the repo in the cache.
        token: Access token, as huggingface_hub takes it.
    """

    def __init__(self, repo_id: str, name: str, commit: str, stated: Stated, storage: Path, token: str | bool | None):
        self.repo_id, self.name, self.commit, self.stated, self.token = repo_id, name, commit, stated, token
        self.storage, self.blob = storage, storage / 'blobs' / stated.hash
        self.path = storage / 'snapshots' / commit / name
        pool = ThreadPoolExecutor(1)
        self._cached: Future[bool] | None = pool.submit(self._is_good, self.path)
        pool.shutdown(wait=False)

    def verified(self) -> Path:
        """The path in the cache, once the content is known to be what the Hub states.

        Raises:
            OSError: It is not, also when downloaded anew, or it cannot be had. The cache keeps no damaged file.
        """
        if self._cached is not None and not self._cached.result():
            with _named(self.blob):
                self._heal()
            self._cached = None
        return self.path

    def _is_good(self, path: Path) -> bool:
        # a file is read only where it ends within its size: what is another's device or pipe has none
        return path.is_file() and path.stat().st_size == self.stated.size and (
            file_hash(path, self.stated.hash) == self.stated.hash)

    def _heal(self) -> None:
        """Have the good file at both its places. Each appears there in one step: who reads meanwhile reads well."""
        for folder in (self.blob.parent, self.path.parent):
            _check_inside(folder, self.storage)
            folder.mkdir(parents=True, exist_ok=True)
        lock = self.storage.parent / '.locks' / self.storage.name / f'{self.stated.hash}.lock'
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # the client's, too
            if self._is_good(self.path):  # another process was here first
                return
            if not self._is_good(self.blob):
                try:
                    self._download()
                except BaseException:
                    for damaged in (self.path, self.blob):
                        _remove(damaged)
                    raise
            _place(self.blob, self.path)

    def _download(self) -> None:
        new = self.blob.with_name(f'{self.stated.hash}.{uuid.uuid4().hex[:8]}.incomplete')
        try:
            for _ in range(2):
                budget = [2 * self.stated.size + _SLACK]
                try:
                    download(self._get, new, budget)
                except OSError as e:
                    if type(e) is not OSError or e.errno is not None:
                        raise
                    raise ConnectionError(
                        f'{self.name} of {self.repo_id} came out with another size than the {self.stated.size:,} bytes '
                        'that the Hub states, again and again. Try another network, or ask for a new push.') from e
                found = file_hash(new, self.stated.hash)
                if found == self.stated.hash:
                    os.replace(new, self.blob)
                    return
        finally:
            new.unlink(missing_ok=True)
        raise OSError(
            f'{self.name} of {self.repo_id} at {self.commit[:12]} is damaged: its hash is {found}, the Hub states '
            f'{self.stated.hash}, also after it was downloaded anew. It was not loaded, and is not in the cache. Try '
            'another network, or ask for a new push.')

    def _get(self, new: Path, budget: list[int]) -> None:
        free = shutil.disk_usage(new.parent).free
        if self.stated.size > free:
            raise GivenUp(
                f'{self.name} of {self.repo_id} is stated to have {self.stated.size:,} bytes, and {free:,} are free at '
                f'{new.parent}. Make room, pass another cache_dir=, or look whether that is the right repo.')
        with _Bounded(new, self.name, budget) as file:
            http_get(
                hf_hub_url(self.repo_id, self.name, revision=self.commit), file, expected_size=self.stated.size,
                headers=build_hf_headers(token=self.token, library_name='timm-se50'), displayed_filename=self.name)


class _Bounded(io.BufferedWriter):
    """A file that takes no more bytes than a budget has, which all tries of one download draw upon."""

    def __init__(self, path: Path, name: str, budget: list[int]):
        super().__init__(io.FileIO(path, 'w'))
        self.name_on_hub, self.budget = name, budget

    def write(self, data) -> int:
        self.budget[0] -= len(data)
        if self.budget[0] < 0:
            raise GivenUp(
                f'{self.name_on_hub}: the server sent more than twice the bytes that the Hub states, and the file is '
                'not whole. It was given up; try another network.')
        return super().write(data)


class GivenUp(OSError):
    """What no other try would mend."""


def note_revision(storage: Path, revision: str, commit: str) -> None:
    """Note the commit of a branch or tag, so that HF_HUB_OFFLINE finds it by this name; if the cache can be written."""
    ref = storage / 'refs' / revision
    try:
        if ref.is_file() and ref.read_text() == commit:
            return
        _check_inside(ref, storage / 'refs')
        ref.parent.mkdir(parents=True, exist_ok=True)
        new = ref.with_name(f'{ref.name}.{uuid.uuid4().hex[:8]}.incomplete')
        new.write_text(commit)
        os.replace(new, ref)
    except (OSError, UnicodeDecodeError):  # all that is needed now is there
        pass


def _place(source: Path, path: Path) -> None:
    """Let `path` be what `source` is, by a link, or a copy where there are none, in one step."""
    new = path.with_name(f'{path.name}.{uuid.uuid4().hex[:8]}.incomplete')
    try:
        try:
            os.symlink(os.path.relpath(source, path.parent), new)
        except (OSError, NotImplementedError):
            shutil.copyfile(source, new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _check_inside(folder: Path, storage: Path) -> None:
    """Raise an OSError unless `folder`, with all links resolved, lies in the folder `storage`."""
    if not folder.resolve().is_relative_to(storage.resolve()):
        raise OSError(f'{folder} leads to {folder.resolve()}, out of the cache of its repo; nothing was written there. '
                      f'Remove {storage}, or pass another cache_dir=.')


def _remove(entry: Path) -> None:
    """Remove an entry of the cache: a link itself, never what it leads to."""
    with suppress(OSError):  # a folder, or one that may not be changed; the error that led here says more
        entry.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give an error of the system the path that it lacks."""
    try:
        yield
    except OSError as e:
        if e.errno is None or e.filename is not None:
            raise
        raise OSError(e.errno, e.strerror, str(path)) from e
