"""What a config.json describes, held against the weights beside it: names and shapes decide, before a weight is read.

A config.json comes from others. It says what is built, and which weights timm lets go: the classifier, if the caller
asks for other classes. So timm builds the network of it without memory, and the weights have to be that network's. What
the caller asks for (`num_classes`, `in_chans`) is applied afterwards, by timm.
"""
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models import _hub, load_state_dict_from_hf  # timm.models has only those for the Hub
from timm.models.resnet import ResNet
from torch import nn

from ..weights import map_resnet_weights, naming

__all__ = ['OURS', 'PORTABLE', 'check_described', 'check_folder', 'first_conv', 'make_outline']

OURS = ('se_resnet50_replace', 'se_resnet50_patch')
PORTABLE = 'seresnet50'  # timm's own, the same network as ours with the default settings, up to factors of two
# The arguments that describe the network. Where it is made and what is loaded is for the caller to say
_NETWORK_ARGS = {
    *inspect.signature(ResNet).parameters, 'se_reduction', 'se_stages', 'se_position', 'memory_efficient'
} - {'device', 'dtype'}
_MAX_BLOCKS = 1000  # an outline of so many takes seconds


def check_described(cfg: Mapping[str, Any], kwargs: Mapping[str, Any], architecture: str) -> None:
    """Raise a ValueError unless a config.json describes the network whose weights lie beside it.

    Args:
        cfg: What timm read of it as pretrained_cfg, with the place that it comes from.
        kwargs: What timm passes on: `pretrained_model_args` is what it read as model_args. Where there are none, as
            with a `pretrained_cfg` that the caller wrote, the network is the one that is asked for.
        architecture: The name in it.
    """
    local = cfg['source'] == 'local-dir'
    home = cfg['file' if local else 'hf_hub_id']
    place = f'{home}/config.json'
    args = kwargs.get('pretrained_model_args')
    if args is None:
        args = {k: v for k, v in kwargs.items() if k in _NETWORK_ARGS - {'num_classes', 'in_chans'} and v is not None}
    if unknown := sorted(k for k, v in args.items() if k not in _NETWORK_ARGS or v is None):
        raise ValueError(f'{place}: {unknown[0]!r} in model_args describes no network; take it out, and pass it to '
                         'timm.create_model() if you mean it.')
    network = make_outline(place, architecture, cfg, args)
    _check_stated(cfg, network, place)
    with naming(home):  # mapped into memory, and not read
        weights = (_hub.load_state_dict_from_path(home) if local
                   else load_state_dict_from_hf(home, 'model.safetensors', cache_dir=kwargs.get('cache_dir')))
    try:
        weights = map_resnet_weights(weights, network)
    except RuntimeError as e:
        raise ValueError(f'{place} describes another network than its weights are of: {e}') from e
    shapes = network.state_dict()
    for key in shapes | weights:  # the classifier and the first convolution, too
        stored, stated = (tuple(them[key].shape) if key in them else None for them in (weights, shapes))
        if stored != stated and not key.endswith('num_batches_tracked'):
            raise ValueError(
                f'{place} describes another network than its weights are of: {key!r} has shape {stored}, and {stated} '
                'by the config. Other classes or channels are for the caller to ask for.')


def check_folder(folder: Path) -> None:
    """Raise a ValueError unless a folder holds one of our models, or timm's `seresnet50`, as its config.json says."""
    try:
        cfg, architecture, args = _hub.load_model_config_from_path(folder)
    except Exception as e:  # what JSON of another form makes of timm has no bound
        raise ValueError(f'{folder}/config.json is no config.json of timm: {type(e).__name__}: {e}') from e
    known = (*OURS, PORTABLE)
    if architecture not in known:
        raise ValueError(f'{folder}/config.json is of a {architecture!r}; expected one of {", ".join(known)}. '
                         'For other models use timm.create_model().')
    check_described(cfg, {'pretrained_model_args': args}, architecture)


def make_outline(place: str, architecture: str, cfg: Mapping[str, Any], args: Mapping[str, Any]) -> nn.Module:
    """The network that timm makes of a config, without memory; an error names the config's place."""
    described = {k: v for k, v in cfg.items() if k not in ('source', 'file', 'hf_hub_id', 'url')}
    try:
        if (blocks := sum(args.get('layers') or ())) > _MAX_BLOCKS:
            raise ValueError(f"'layers' has {blocks} blocks; expected at most {_MAX_BLOCKS}.")
        with torch.device('meta'):
            return timm.create_model(architecture, pretrained_cfg=described, **args)
    except Exception as e:  # what a wrong config makes of timm has no bound
        raise ValueError(f'{place}: no network can be made of it: {type(e).__name__}: {e}') from e


def first_conv(network: nn.Module) -> str:
    """The name of a network's first convolution: a deep stem has it as its first layer."""
    return next(name for name, m in network.named_modules() if isinstance(m, nn.Conv2d))


def _check_stated(cfg: Mapping[str, Any], network: nn.Module, place: str) -> None:
    """Raise a ValueError where a pretrained_cfg says something else of the network than what it is."""
    expected: dict[str, tuple] = {
        'num_classes': (cast(int, network.num_classes),), 'classifier': (None, 'fc'), 'label_offset': (None, 0),
        'first_conv': (None, 'conv1', first_conv(network)), 'custom_load': (None, False), 'hf_hub_filename': (None,)}
    stated = {**dict.fromkeys(expected), 'num_classes': 1000, **cfg}
    for key, values in expected.items():
        if stated[key] not in values:
            raise ValueError(f'{place}: {key!r} in pretrained_cfg is {stated[key]!r}; expected {values[-1]!r}.')
