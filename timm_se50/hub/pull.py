"""Models from the Hugging Face Hub: one commit for all files, each verified before it is used."""
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import HfApi, constants
from torch import nn

from ..checkpoint import FILES, check_folder, replace_files
from .client import progress_bars
from .verified import cached, note_revision, stated, verified

__all__ = ['download_checkpoint', 'pull_from_hub']

_NEEDED = ('config.json', 'model.safetensors')


def pull_from_hub(
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        quiet: bool = False,
        **kwargs,
) -> nn.Module:
    """Create a model from a repo that `push_to_hub()` made.

    As `timm.create_model('hf-hub:USER/NAME', pretrained=True)`, and only verified files are read, nothing is
    unpickled, and config and weights come from one commit. With HF_HUB_OFFLINE=1 they come from the cache.

    Args:
        repo_id: 'USER/NAME' or 'USER/NAME@REVISION'.
        revision: Branch, tag or commit; 'main' by default.
        token: Access token; by default the one that is logged in.
        cache_dir: Cache folder; by default that of huggingface_hub.
        quiet: Show no progress bars.
        **kwargs: Arguments of `timm.create_model()` that differ from the config's, for example `num_classes`.

    Returns:
        The model, in train mode as timm returns it.

    Raises:
        OSError: A file cannot be had, or is damaged; the message says which, why and what to do. No model is made.
        ValueError: The repo does not hold an SE-ResNet-50 as safetensors.
    """
    if kwargs.pop('pretrained', True) is not True or 'checkpoint_path' in kwargs:
        raise ValueError('pretrained, checkpoint_path: the weights are those of the repo, always; for others use '
                         'timm.create_model().')
    repo_id, folder = _download(repo_id, revision, token, cache_dir, quiet, _NEEDED)
    with _of_repo(repo_id, folder):
        check_folder(folder)
        model: Any = timm.create_model(f'local-dir:{folder}', pretrained=True, **kwargs)
    bad = next((key for key, value in model.state_dict().items() if not value.isfinite().all()), None)
    if bad is not None:
        warnings.warn(f'{repo_id}: {bad!r} holds NaN or infinity, as do the outputs of the model; its training went '
                      'wrong, or the file was damaged before it was pushed.', stacklevel=2)
    model.pretrained_cfg.pop('file', None)
    model.pretrained_cfg.update(source='hf-hub', hf_hub_id=f'{repo_id}@{folder.name}')
    return model


def download_checkpoint(
        repo_id: str,
        folder: str | os.PathLike | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        quiet: bool = False,
) -> Path:
    """Download and verify the files of a repo, for `timm.create_model('local-dir:FOLDER', pretrained=True)`.

    Args:
        repo_id: As for `pull_from_hub()`, as are the other arguments.
        folder: Folder to copy them to, made if need be, in place of the files of a model that is there; None leaves
            them in the cache.

    Returns:
        The folder they are in.

    Raises:
        OSError, ValueError: As `pull_from_hub()`. `folder` is left as it was.
    """
    repo_id, source = _download(repo_id, revision, token, cache_dir, quiet, FILES)
    with _of_repo(repo_id, source):
        check_folder(source)
    if folder is None:
        return source
    folder = Path(os.path.abspath(folder))
    replace_files(folder, {name: (source / name).read_bytes() for name in FILES if (source / name).exists()})
    return folder


@contextmanager
def _of_repo(repo_id: str, folder: Path) -> Iterator[None]:
    """Say of which repo the files are that cannot be used: each is what the Hub states."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as e:  # what a wrong config makes of timm has no bound
        raise ValueError(f'{repo_id} at {folder.name[:12]} cannot be used: {type(e).__name__}: {e}') from e


def _download(repo_id, revision, token, cache_dir, quiet, names) -> tuple[str, Path]:
    """Have the files of `names` in the cache, verified: the repo's id without its revision, and the commit's folder."""
    repo_id, _, after = repo_id.partition('@')
    revision = revision or after or constants.DEFAULT_REVISION
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    if constants.HF_HUB_OFFLINE:
        folder = cached(repo_id, 'config.json', revision, cache).parent
        cached(repo_id, 'model.safetensors', folder.name, cache)
        return repo_id, folder
    api = HfApi(token=token, library_name='timm-se50')
    with progress_bars(not quiet):
        info, hashes = stated(api, repo_id, revision)
        missing = [name for name in _NEEDED if name not in hashes]
        if missing:
            raise ValueError(f'{repo_id} has no {" and no ".join(missing)}; expected a repo that push_to_hub() made. '
                             'Pickled weights (pytorch_model.bin) can run any code, and are never loaded.')
        commit = str(info.sha)
        paths = [verified(api, repo_id, name, commit, hashes[name], cache) for name in names if name in hashes]
    folder = paths[0].parent
    if revision != commit:
        note_revision(folder.parents[1], revision, commit)
    return repo_id, folder
