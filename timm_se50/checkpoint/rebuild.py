"""A saved model made again: what its config.json says, against the weights that lie beside it."""
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
from safetensors import safe_open
from timm.models import load_pretrained
from torch import Tensor, nn

from ..se_resnet50 import SEResNet
from ..weights import check_weights, clean_weights, map_resnet_weights, naming
from .saved import check_saved, is_of_other_size

__all__ = ['check_described', 'check_size', 'load_saved', 'read_saved']


def check_described(cfg: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Raise a ValueError where what timm read as pretrained_cfg and model_args is none that a saved model has."""
    folder = cfg.get('file') if cfg['source'] == 'local-dir' else None
    place = f'{folder or cfg.get("hf_hub_id")}/config.json'
    check_saved(cfg, args, place)
    weights = Path(folder or '', 'model.safetensors')
    if folder and weights.is_file():
        with naming(weights), safe_open(weights, 'pt') as file:
            found = file.get_slice('fc.weight').get_shape()[0] if 'fc.weight' in file.keys() else 0  # noqa: SIM118
        _check_head(found, cfg, place)
        if is_of_other_size(cfg, args):
            check_size(weights, cfg, args)


def check_size(path: Path, cfg: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Raise a ValueError if the model of a config is far larger than its weights, before memory is taken for it.

    Args:
        path: The weights, a safetensors file.
        cfg: Its pretrained_cfg.
        args: Its model_args.
    """
    with naming(path), safe_open(path, 'pt') as file:
        stored = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    plain = {key: value for key, value in args.items() if not key.startswith(('se_', 'memory_'))}
    with torch.device('meta'):
        try:  # SE draws its own numbers, and is no more than a few times the rest
            model = timm.create_model('resnet50', **{'num_classes': cfg.get('num_classes') or 0, **plain})
        except Exception as e:  # what a wrong config makes of timm has no bound
            raise ValueError(f'{path.parent}/config.json: no model can be made of it: {type(e).__name__}: {e}') from e
    wanted = sum(p.numel() for p in model.parameters())
    if wanted > 2 * stored + 10_000_000:
        raise ValueError(f'{path} holds {stored:,} numbers, and config.json describes a model of {wanted:,}; it was '
                         'not built.')


def read_saved(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, and warn of the first key that holds NaN or infinity.

    Raises:
        ValueError: It is none.
        RuntimeError: It holds something else than weights.
    """
    with naming(path):
        weights = clean_weights(safetensors.torch.load_file(path))
    wide = ((key, v if v.element_size() > 1 else v.float()) for key, v in weights.items())  # float8 has no isfinite()
    bad = next((key for key, v in wide if not v.isfinite().all()), None)
    if bad is not None:
        warnings.warn(f'{path}: {bad!r} holds NaN or infinity, as do the outputs of a model with it; its training went '
                      'wrong, or the file was damaged before it was pushed.', stacklevel=3)
    return weights


def load_saved(model: nn.Module, path: Path) -> None:
    """Load the weights beside a config.json into the model that was built from it; those of the classifier are let go
    only where the caller asked for another number of classes than the config states.

    Raises:
        ValueError, RuntimeError: As `read_saved`, or they are not that model's.
    """
    weights = read_saved(path)
    cfg = cast(dict[str, Any], model.pretrained_cfg)
    head = weights.get('fc.weight')
    _check_head(0 if head is None else len(head), cfg, path)
    if not isinstance(model, SEResNet):  # timm does not look whether all is there if num_classes differs
        check_weights(weights, model.state_dict(), cfg.get('first_conv') or 'conv1')
    load_pretrained(
        model, {**cfg, 'source': None, 'file': None, 'state_dict': weights}, num_classes=cast(int, model.num_classes),
        in_chans=cast(int, model.in_chans), filter_fn=map_resnet_weights if isinstance(model, SEResNet) else None)


def _check_head(found: int, cfg: Mapping[str, Any], place: object) -> None:
    """Raise a ValueError unless the classifier has the classes that a config states."""
    stated = cfg.get('num_classes', found)
    if found != stated:
        raise ValueError(f"{place}: config.json states {stated} classes, and 'fc.weight' has {found} rows. Set "
                         "'num_classes' in config.json to that; another number is for the caller to ask for.")
