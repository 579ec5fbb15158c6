"""What a config.json describes, held against the weights beside it: names and shapes decide, before a weight is read.

A config.json comes from others. It says what is built, and which weights timm lets go: the classifier, if the caller
asks for other classes. So timm builds the network of it without memory, and the header of model.safetensors has to be
that network's. What the caller asks for (`num_classes`, `in_chans`) is applied afterwards, by timm.
"""
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from timm.models._hub import load_model_config_from_path  # timm.models has only the one for the Hub
from timm.models.resnet import ResNet
from torch import nn

from ..weights import map_resnet_weights, naming

__all__ = ['OURS', 'PORTABLE', 'check_described', 'check_folder', 'first_conv', 'make_outline', 'read_config']

OURS = ('se_resnet50_replace', 'se_resnet50_patch')
PORTABLE = 'seresnet50'  # timm's own, the same network as ours with the default settings, up to factors of two
# The arguments that describe the network. Where it is made and what is loaded is for the caller to say
_NETWORK_ARGS = {
    *inspect.signature(ResNet).parameters, 'se_reduction', 'se_stages', 'se_position', 'memory_efficient'
} - {'device', 'dtype'}
_MAX_BLOCKS = 1000  # an outline of so many takes seconds
_DTYPES = {'I64': torch.int64, 'F16': torch.float16, 'BF16': torch.bfloat16, 'F64': torch.float64}


def check_described(cfg: Mapping[str, Any], kwargs: Mapping[str, Any], architecture: str) -> None:
    """Raise a ValueError unless a config.json describes the network whose weights lie beside it.

    Args:
        cfg: What timm read of it as pretrained_cfg, with the place that it comes from.
        kwargs: What timm passes on: `pretrained_model_args` is what it read as model_args. Where there are none, as
            with a `pretrained_cfg` that the caller wrote, the network is the one that is asked for.
        architecture: The name in it.
    """
    local = cfg['source'] == 'local-dir'
    place = f'{cfg["file" if local else "hf_hub_id"]}/config.json'
    args = kwargs.get('pretrained_model_args')
    if args is None:
        args = {k: v for k, v in kwargs.items() if k in _NETWORK_ARGS - {'num_classes', 'in_chans'} and v is not None}
    if unknown := sorted(k for k, v in args.items() if k not in _NETWORK_ARGS or v is None):
        raise ValueError(f'{place}: {unknown[0]!r} in model_args describes no network; take it out, and pass it to '
                         'timm.create_model() if you mean it.')
    try:
        network = make_outline(architecture, cfg, args)
    except Exception as e:  # what a wrong config makes of timm has no bound
        raise ValueError(f'{place}: no network can be made of it: {type(e).__name__}: {e}') from e
    _check_stated(cfg, network, place)
    if local:
        path = Path(cfg['file'], 'model.safetensors')
        if not path.is_file():  # as timm itself may have saved it
            return
    else:
        repo_id, _, revision = cfg['hf_hub_id'].partition('@')
        path = Path(hf_hub_download(
            repo_id, 'model.safetensors', revision=revision or None, cache_dir=kwargs.get('cache_dir')))
    with naming(path), safe_open(path, 'pt') as file:
        found = ((key, file.get_slice(key)) for key in file.keys())  # noqa: SIM118
        header = {key: torch.empty(v.get_shape(), dtype=_DTYPES.get(v.get_dtype()), device='meta') for key, v in found}
    try:
        header = map_resnet_weights(header, network)
    except RuntimeError as e:
        raise ValueError(f'{place} describes another network than {path.name} holds: {e}') from e
    shapes = network.state_dict()
    for key in shapes | header:  # the classifier and the first convolution, too
        stored, stated = (tuple(weights[key].shape) if key in weights else None for weights in (header, shapes))
        if stored != stated and not key.endswith('num_batches_tracked'):
            raise ValueError(
                f'{place} describes another network than {path.name} holds: {key!r} has shape {stored}, and {stated} '
                'by the config. Other classes or channels are for the caller to ask for.')


def read_config(folder: str | os.PathLike) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Read a folder's config.json, of whatever model of timm: its pretrained_cfg, architecture and model_args.

    Raises:
        ValueError: It is of another form.
    """
    try:
        return load_model_config_from_path(os.fspath(folder))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(
            f'{folder}/config.json is no config.json of timm ({type(e).__name__}: {e}). Expected an object with '
            "'architecture', 'model_args' and 'pretrained_cfg'; get it anew, or save the model again.") from e


def check_folder(folder: Path) -> None:
    """Raise a ValueError unless a folder holds one of our models, or timm's `seresnet50`, as its config.json says."""
    cfg, architecture, args = read_config(folder)
    known = (*OURS, PORTABLE)
    if architecture not in known:
        raise ValueError(f'{folder}/config.json is of a {architecture!r}; expected one of {", ".join(known)}. '
                         'For other models use timm.create_model().')
    check_described(cfg, {'pretrained_model_args': args}, architecture)


def make_outline(architecture: str, cfg: Mapping[str, Any], args: Mapping[str, Any]) -> nn.Module:
    """The network that timm makes of a config, without memory."""
    blocks = sum(args.get('layers') or ())
    if blocks > _MAX_BLOCKS:
        raise ValueError(f"'layers' has {blocks} blocks; expected at most {_MAX_BLOCKS}.")
    described = {k: v for k, v in cfg.items() if k not in ('source', 'file', 'hf_hub_id', 'url')}
    with torch.device('meta'):
        return timm.create_model(architecture, pretrained_cfg=described, **args)


def first_conv(network: nn.Module) -> str:
    """The name of a network's first convolution: a deep stem has it as its first layer."""
    return next(name for name, m in network.named_modules() if isinstance(m, nn.Conv2d))


def _check_stated(cfg: Mapping[str, Any], network: nn.Module, place: str) -> None:
    """Raise a ValueError where a pretrained_cfg says something else of the network than what it is."""
    if cfg.get('num_classes', 1000) != cast(int, network.num_classes):
        raise ValueError(f"{place}: 'num_classes' is {cfg.get('num_classes')}, and the network it describes has "
                         f'{network.num_classes}; expected the number of rows of fc.weight.')
    is_so: dict[str, tuple] = {
        'classifier': ('fc',), 'first_conv': ('conv1', first_conv(network)), 'label_offset': (0,),
        'custom_load': (False,), 'fixed_input_size': (False,), 'hf_hub_filename': ()}
    for key, expected in is_so.items():
        if cfg.get(key) not in (None, *expected):
            said = f'expected {expected[-1]!r}' if expected else 'take it out'
            raise ValueError(f'{place}: {key!r} in pretrained_cfg is {cfg[key]!r}; {said}.')
