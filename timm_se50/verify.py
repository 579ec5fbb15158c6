"""Files of a Hub repo against the hashes that the Hub states for them.

huggingface_hub checks the size of what it downloads, not the content: a changed byte is cached under the good hash.
"""
import hashlib
import os
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.hf_api import ModelInfo

from .hub_errors import RETRIED_BY_CLIENT, retrying

__all__ = ['fetch', 'file_hash', 'forget', 'stated_hashes']


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


def fetch(repo_id: str, name: str, commit: str, stated: str, **kwargs) -> Path:
    """Download a file, or take it from the cache, and verify it.

    Args:
        repo_id: Repo on the Hub.
        name: Name of the file.
        commit: Commit to take it from.
        stated: Hash that the Hub states.
        **kwargs: As for `hf_hub_download()`.

    Returns:
        Its path in the cache.

    Raises:
        OSError: The content has another hash, also when downloaded anew. The cache is left without the file.
    """
    for force in (False, True):
        path = Path(retrying(
            hf_hub_download, repo_id, name, revision=commit, force_download=force, but_not=RETRIED_BY_CLIENT, **kwargs))
        found = file_hash(path, stated)
        if found == stated:
            return path
        forget(path)
    raise OSError(
        f'{name} of {repo_id} at {commit[:12]} is damaged: its hash is {found}, the Hub states {stated}, also after '
        'it was downloaded anew. It was removed from the cache and not loaded. Try another network, or ask for a new '
        'push.')


def forget(path: Path) -> None:
    """Remove a file from the cache: the entry of the commit and the content behind it."""
    for file in (os.path.realpath(path), path):
        Path(file).unlink(missing_ok=True)
