"""Models from the Hugging Face Hub: one commit for all files, each verified before it is used."""
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import timm
from huggingface_hub import HfApi, constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)
from torch import nn

from ..checkpoint.folder import FILES
from ..checkpoint.rebuild import check_size, load_saved, read_saved
from ..checkpoint.saved import is_of_other_size, read_config
from ..checkpoint.staging import check_place, install, staging
from .errors import explained
from .fetch import Fetch, note_revision
from .offline import NEEDED, from_cache
from .stated import stated_files, stated_info

__all__ = ['download_checkpoint', 'progress_bars', 'pull_from_hub']


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
    if kwargs.get('features_only'):
        raise ValueError("features_only: use timm.create_model(f'local-dir:{download_checkpoint(...)}', "
                         'pretrained=True, features_only=True).')
    repo_id, folder, verify = _fetch_checkpoint(repo_id, revision, token, cache_dir, quiet, NEEDED)
    with _of_repo(repo_id, folder):
        config = read_config(folder / 'config.json')
        cfg, args = config['pretrained_cfg'], config['model_args']
        if is_of_other_size(cfg, args):
            verify()
            check_size(folder / 'model.safetensors', cfg, args)
        model = timm.create_model(f'local-dir:{folder}', **kwargs)  # takes about as long as to hash the weights
    verify()
    with _of_repo(repo_id, folder):
        load_saved(model, folder / 'model.safetensors')
    cfg = cast(dict[str, Any], model.pretrained_cfg)
    cfg.pop('file', None)
    cfg.update(source='hf-hub', hf_hub_id=f'{repo_id}@{folder.name}')
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
    if folder is not None:
        folder = Path(os.path.abspath(folder))
        check_place(folder, FILES)
    repo_id, source, verify = _fetch_checkpoint(repo_id, revision, token, cache_dir, quiet, FILES)
    verify()
    with _of_repo(repo_id, source):
        read_config(source / 'config.json')
        read_saved(source / 'model.safetensors')
    if folder is None:
        return source
    with staging(folder, '.pulling-') as new:
        for name in FILES:
            if (source / name).exists():
                shutil.copyfile(source / name, new / name)
        install(new, folder, FILES)
    return folder


@contextmanager
def _of_repo(repo_id: str, folder: Path) -> Iterator[None]:
    """What is wrong with files that are what the Hub states is wrong with the repo."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as e:  # what a wrong config makes of timm has no bound
        said = f'{e}' if isinstance(e, (ValueError, RuntimeError)) else f'{type(e).__name__}: {e}'
        raise ValueError(f'{repo_id} at {folder.name[:12]} cannot be used: {said}') from e


def _fetch_checkpoint(repo_id, revision, token, cache_dir, quiet, names) -> tuple[str, Path, Callable[[], None]]:
    """Download config.json.

    Returns:
        The repo's id without its revision, the cache's folder of one commit with the file, and a function that has to
        be called before the others of `names` are used: it waits until all of them are there, and verified.
    """
    repo_id, _, after = repo_id.partition('@')
    revision = revision or after or constants.DEFAULT_REVISION
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    if constants.HF_HUB_OFFLINE:
        return repo_id, from_cache(repo_id, revision, cache), lambda: None
    api = HfApi(token=token)
    with explained(api, repo_id, revision), progress_bars(not quiet):
        validate_repo_id(repo_id)
        info = stated_info(api, repo_id, revision)
        stated = stated_files(info)
        _check_files(repo_id, stated)
        commit, storage = str(info.sha), cache / repo_folder_name(repo_id=repo_id, repo_type='model')
        fetches = {
            name: Fetch(repo_id, name, commit, stated[name], storage, token) for name in names if name in stated}
        folder = fetches['config.json'].verified().parent
    if revision != commit:
        note_revision(storage, revision, commit)

    def verify():
        with explained(api, repo_id, revision), progress_bars(not quiet):
            for fetch in fetches.values():
                fetch.verified()
    return repo_id, folder, verify


def _check_files(repo_id: str, names) -> None:
    missing = [name for name in NEEDED if name not in names]
    pickles = sorted(n for n in names if n.endswith(('.bin', '.pth', '.pt', '.ckpt', '.pkl', '.tar')))
    if 'model.safetensors' in missing and pickles:
        raise ValueError(
            f'{repo_id} has its weights only in {pickles[0]}, a pickle, which can run any code when it is loaded. It '
            'was not loaded; ask its owner for model.safetensors.')
    if missing:
        raise ValueError(f'{repo_id} has no {" and no ".join(missing)}; expected a repo that push_to_hub() made.')


@contextmanager
def progress_bars(show: bool) -> Iterator[None]:
    """Turn the progress bars of huggingface_hub off for a while, unless `show`."""
    change = not show and not are_progress_bars_disabled()
    if change:
        disable_progress_bars()
    try:
        yield
    finally:
        if change:
            enable_progress_bars()
