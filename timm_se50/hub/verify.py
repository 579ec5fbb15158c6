"""Files of a Hub repo against the hashes that the Hub states for them.

huggingface_hub checks the size of what it downloads, not the content: a changed byte is cached under the good hash.
"""
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from .errors import retrying
from .http_client import RETRIED_BY_CLIENT

__all__ = ['Fetch', 'file_hash', 'forget', 'stated_hashes']


def stated_hashes(info: ModelInfo) -> dict[str, str]:
    """Hash by file name, of a `model_info(files_metadata=True)`: sha256 for LFS, else the id of the git blob."""
    return {f.rfilename: (f.lfs.sha256 if f.lfs else f.blob_id) or '' for f in info.siblings or ()}


def file_hash(path: str | os.PathLike, like: str) -> str:
    """Hash of a file, of the kind that `like` is: a sha256 or the id of a git blob, by its length."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b'blob %d\0' % os.path.getsize(path), usedforsecurity=False)
    buffer = memoryview(bytearray(1 << 20))
    with open(path, 'rb', buffering=0) as f:
        while n := f.readinto(buffer):
            digest.update(buffer[:n])
    return digest.hexdigest()


class Fetch:
    """A file that is downloaded, or taken from the cache, and then hashed in the background.

    Args:
        repo_id: Repo on the Hub.
        name: Name of the file.
        commit: Commit to take it from.
        stated: Hash that the Hub states.
        **kwargs: As for `hf_hub_download()`.
    """

    def __init__(self, repo_id: str, name: str, commit: str, stated: str, **kwargs):
        self.repo_id, self.name, self.commit, self.stated, self.kwargs = repo_id, name, commit, stated, kwargs
        self._start(force=False)

    def _start(self, force: bool) -> None:
        self.path = Path(retrying(
            hf_hub_download, self.repo_id, self.name, revision=self.commit, force_download=force,
            but_not=RETRIED_BY_CLIENT, **self.kwargs))
        pool = ThreadPoolExecutor(1)
        self._found = pool.submit(file_hash, self.path, self.stated)
        pool.shutdown(wait=False)

    def verified(self) -> Path:
        """The path in the cache, once the content is known to be what the Hub states.

        Raises:
            OSError: It is not, also when downloaded anew. The cache is left without the file.
        """
        for again in (True, False):
            found = self._found.result()
            if found == self.stated:
                return self.path
            forget(self.path)
            if again:
                self._start(force=True)
        raise OSError(
            f'{self.name} of {self.repo_id} at {self.commit[:12]} is damaged: its hash is {found}, the Hub states '
            f'{self.stated}, also after it was downloaded anew. It was removed from the cache and not loaded. Try '
            'another network, or ask for a new push.')


def forget(path: Path) -> None:
    """Remove a file from the cache: the entry of the commit and the content behind it."""
    for file in (os.path.realpath(path), path):
        Path(file).unlink(missing_ok=True)
