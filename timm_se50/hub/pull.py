"""Models from the Hugging Face Hub: one commit for all files, each verified before it is used."""
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import timm
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from timm.models import load_pretrained
from torch import nn

from ..checkpoint.folder import FILES
from ..se_resnet50 import SEResNet
from ..weights.mapping import map_resnet_weights
from .errors import explained, retrying
from .verify import Fetch, file_hash, forget, stated_hashes

__all__ = ['download_checkpoint', 'progress_bars', 'pull_from_hub']

NEEDED = ('config.json', 'model.safetensors')
_ARCHITECTURES = ('se_resnet50_replace', 'se_resnet50_patch', 'seresnet50')


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
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    architecture = config.get('architecture')
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"{repo_id} holds a {architecture!r}; expected one of {', '.join(_ARCHITECTURES)}. "
            f"For other models use timm.create_model('hf-hub:{repo_id}', pretrained=True).")
    model = timm.create_model(f'local-dir:{folder}', **kwargs)  # takes about as long as to hash the weights
    verify()
    load_pretrained(
        model, num_classes=cast(int, model.num_classes), in_chans=cast(int, model.in_chans),
        filter_fn=map_resnet_weights if isinstance(model, SEResNet) else None)
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
        folder: Folder to copy them to, made if need be; None leaves them in the cache.

    Returns:
        The folder they are in.

    Raises:
        OSError, ValueError: As `pull_from_hub()`. `folder` is left as it was.
    """
    _, source, verify = _fetch_checkpoint(repo_id, revision, token, cache_dir, quiet, FILES)
    verify()
    if folder is None:
        return source
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.pulling-') as tmp:
        names = [name for name in FILES if (source / name).exists()]
        for name in names:
            shutil.copyfile(source / name, Path(tmp, name))
        for name in names:
            os.replace(Path(tmp, name), folder / name)
    return folder


def _fetch_checkpoint(repo_id, revision, token, cache_dir, quiet, names) -> tuple[str, Path, Callable[[], None]]:
    """Download `names`.

    Returns:
        The repo's id without its revision, the cache's folder of one commit with the files, and a function that has
        to be called before they are used, config.json excepted: it waits until all of them are verified.
    """
    repo_id, _, after = repo_id.partition('@')
    revision = revision or after or constants.DEFAULT_REVISION
    if constants.HF_HUB_OFFLINE:
        return repo_id, _from_cache(repo_id, revision, cache_dir), lambda: None
    api = HfApi(token=token)
    with explained(api, repo_id, revision), progress_bars(not quiet):
        info = retrying(api.model_info, repo_id, revision=revision, files_metadata=True, timeout=30)
        stated = stated_hashes(info)
        _check_files(repo_id, stated)
        commit = str(info.sha)
        fetches = [
            Fetch(repo_id, name, commit, stated[name], token=token, cache_dir=cache_dir)
            for name in names if name in stated]
        folder = next(f for f in fetches if f.name == 'config.json').verified().parent
    if revision != commit:  # so that HF_HUB_OFFLINE finds it under this name; the client does so for a branch only
        ref = folder.parents[1] / 'refs' / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)

    def verify():
        with explained(api, repo_id, revision), progress_bars(not quiet):
            for fetch in fetches:
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


def _from_cache(repo_id: str, revision: str, cache_dir) -> Path:
    config = try_to_load_from_cache(repo_id, 'config.json', cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str) or not Path(config).with_name('model.safetensors').exists():
        raise FileNotFoundError(
            f'HF_HUB_OFFLINE is set and {repo_id} at {revision!r} is not in the cache; unset it, or pull once before.')
    for name in NEEDED:
        path = Path(config).with_name(name)
        stated = os.path.basename(os.readlink(path)) if path.is_symlink() else ''  # the cache names content by hash
        if len(stated) not in (40, 64):
            raise OSError(
                f'{path} cannot be verified offline, since the cache has no links here; unset HF_HUB_OFFLINE.')
        if file_hash(path, stated) != stated:
            forget(path)
            raise OSError(f'{name} of {repo_id} was damaged in the cache and has been removed; unset HF_HUB_OFFLINE to '
                          'download it anew.')
    return Path(config).parent


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
