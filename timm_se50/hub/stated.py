"""What the Hub states about a repo: its commit, and hash and size of each file. A name, a hash or a commit becomes part
of a path in the cache, so each is checked to be what it ought to be."""
import hashlib
import os
import re
from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo

from .errors import NoAnswer, retrying

__all__ = ['Stated', 'file_hash', 'is_hash', 'stated_files', 'stated_info']


@dataclass(frozen=True)
class Stated:
    """Hash of a file (sha256 for LFS, else the id of the git blob, in hex) and its size in bytes."""
    hash: str
    size: int


def stated_info(api: HfApi, repo_id: str, revision: str | None = None) -> ModelInfo:
    """What the Hub states about a revision of a repo.

    Raises:
        NoAnswer: It is not of the Hub's form: no commit, no list of files, or a file without hash or size.
    """
    def model_info() -> ModelInfo:
        answer = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=30)
        if not is_hash(answer.sha, 40):
            raise NoAnswer(f'{repo_id} has the commit {answer.sha!r}, expected 40 hex digits')
        if answer.siblings is None:
            raise NoAnswer(f'{repo_id} has no list of files ("siblings")')
        stated_files(answer)
        return answer
    return retrying(model_info)


def stated_files(info: ModelInfo) -> dict[str, Stated]:
    """What `stated_info` gave has about each file, by its name."""
    files = {}
    for file in info.siblings or ():
        if not isinstance(file.rfilename, str):
            raise NoAnswer(f'{info.id} has a file named {file.rfilename!r}')
        digest, size = (file.lfs.sha256, file.lfs.size) if file.lfs else (file.blob_id, file.size)
        if not is_hash(digest, 64 if file.lfs else 40) or type(size) is not int or size < 0:
            raise NoAnswer(f'{file.rfilename!r} of {info.id} has hash {digest!r} and size {size!r}, expected '
                           f'{64 if file.lfs else 40} hex digits and a number of bytes')
        files[file.rfilename] = Stated(str(digest), size)
    return files


def is_hash(value: object, digits: int) -> bool:
    """Whether a value is a hash of so many hex digits."""
    return isinstance(value, str) and re.fullmatch(f'[0-9a-f]{{{digits}}}', value) is not None


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
