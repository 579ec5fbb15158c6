"""Files of one commit, downloaded by huggingface_hub into its cache, and used if their hash is what the Hub states."""
import os
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from .client import asked, explained

__all__ = ['cached', 'file_hash', 'note_revision', 'stated', 'verified']


def stated(api: HfApi, repo_id: str, revision: str | None = None) -> tuple[ModelInfo, dict[str, str]]:
    """What the Hub states of a revision, and of it the hash of each file: sha256 of a large one, else its git blob's.

    Raises:
        OSError: It does not answer, or with something else than hashes, of which the client makes paths.
    """
    with explained(repo_id):
        info = asked(api.model_info, repo_id, revision=revision, files_metadata=True, timeout=30)
        hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or ()}
    for name, value in {**hashes, 'the commit': info.sha}.items():
        if not _is_hash(value):
            raise OSError(
                f'{repo_id}: {constants.ENDPOINT} states {value!r} as the hash of {name!r}, expected hex digits. That '
                'is no answer of a Hub; check HF_ENDPOINT and the proxies between.')
    return info, {name: str(value) for name, value in hashes.items()}


def verified(api: HfApi, repo_id: str, name: str, commit: str, wanted: str, cache: Path) -> Path:
    """The path of a file in the cache, downloaded if need be, once its hash is known to be the one that is `wanted`.

    Raises:
        OSError: It cannot be had, or is another file, also when downloaded anew. The cache keeps none of wrong bytes.
    """
    what, storage = f'{name} of {repo_id}', cache / repo_folder_name(repo_id=repo_id, repo_type='model')
    path, blob = storage / 'snapshots' / commit / name, storage / 'blobs' / wanted
    if file_hash(path, wanted) == wanted:
        return path
    for folder in (path.parent, blob.parent):
        if not _is_inside(folder, storage):
            raise OSError(f'{folder} leads out of the cache of {repo_id}; nothing was written there. Remove it.')
    with explained(what):
        answer = asked(api.get_hf_file_metadata, url=hf_hub_url(repo_id, name, revision=commit))
    if (answer.commit_hash, answer.etag) != (commit, wanted):  # the client names folder and file by these
        raise OSError(
            f'{what}: {constants.ENDPOINT} states the commit {commit} and the hash {wanted}, and then offers '
            f'{answer.commit_hash!r} and {answer.etag!r}. Nothing was fetched; check HF_ENDPOINT and the proxies.')
    for force in (path.exists(), True):
        with explained(what):
            api.hf_hub_download(repo_id, name, revision=commit, cache_dir=cache, force_download=force)
        found = file_hash(path, wanted)
        if found == wanted:
            return path
        for entry in (path, blob):
            entry.unlink(missing_ok=True)  # a link itself, never what it leads to
    raise OSError(
        f'{what} at {commit[:12]} is damaged: its hash is {found}, the Hub states {wanted}, also after it was '
        'downloaded anew. It was not loaded, and is not in the cache. Try another network, or ask for a new push.')


def cached(repo_id: str, name: str, revision: str, cache: Path) -> Path:
    """The path of a file in the cache; if that is a link, the content has the hash that it names."""
    path = try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=revision)
    if not isinstance(path, str):
        raise FileNotFoundError(
            f'HF_HUB_OFFLINE is set, and {name} of {repo_id} at {revision!r} is not in the cache; unset it, or pull '
            'once before.')
    named = os.path.basename(os.readlink(path)) if os.path.islink(path) else ''
    if _is_hash(named) and file_hash(path, named) != named:
        raise OSError(
            f'{name} of {repo_id} is damaged, or another file: the cache names it {named}, which is not its hash. It '
            f'was not loaded; {path} is as it was. Unset HF_HUB_OFFLINE to have it downloaded anew.')
    return Path(path)


def note_revision(storage: Path, revision: str, commit: str) -> None:
    """Note the commit of a branch or tag as the client does, for HF_HUB_OFFLINE; if the cache can be written to."""
    ref = storage / 'refs' / revision
    with suppress(OSError):
        if _is_inside(ref, storage) and not (ref.is_file() and ref.read_bytes() == commit.encode()):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)


def file_hash(path: str | os.PathLike, like: str) -> str | None:
    """Hash of a file, of the kind that `like` is by its length; None if it is no file: a device or pipe has no end."""
    if not os.path.isfile(path):
        return None
    with open(path, 'rb') as file:
        return sha_fileobj(file).hex() if len(like) == 64 else git_hash(file.read())


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', value) is not None


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
