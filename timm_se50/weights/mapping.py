"""A whole state dict to that of a model with SE blocks; what a block makes of its own stands in block_weights.py."""
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..block_weights import map_block_weights, to_timm
from ..bottleneck import SEBlock
from .check import check_weights
from .recognise import recognise

__all__ = ['clean_weights', 'map_resnet_weights', 'seresnet50_weights']

# What DDP, torch.compile and a wrapper with a `model` attribute put before each key.
_PREFIXES = re.compile(r'^((module|_orig_mod|model)\.)+')
# What torch's activation checkpointing puts into the names of modules, and takes out of those of weights.
_CHECKPOINT_WRAPPER = '_checkpoint_wrapped_module'


def map_resnet_weights(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Map a ResNet's weights to those of the same ResNet with SE; timm's `pretrained_filter_fn`.

    A block that has all weights of a plain one and no others gets those of a neutral SE module: the model computes
    what the ResNet computed, bit for bit. Weights of timm's seresnet50 come out as ours that compute the same, exactly.
    Ours come out as they went in. All may carry the key prefixes of DDP, torch.compile or a `model` attribute. The
    classifier and the first convolution's input channels need not be the model's, since `timm.create_model()` adapts
    those.

    Args:
        state_dict: Weights by key, for example of timm's or torchvision's resnet50; it is not changed.
        model: The model with SE blocks that is to load the result; it is not changed.

    Returns:
        A new dict for `model.load_state_dict()`. It shares its tensors with `state_dict`.

    Raises:
        RuntimeError: It is no state dict, or a key or shape is not the model's; the message names it and says what the
            file looks like.
    """
    target = model.state_dict()
    wrapped = not any(map(_PREFIXES.match, target))  # `model.` and the like are names of the model's own
    mapped = clean_weights(state_dict, {k for k, v in target.items() if not _is_weight(v)}, wrapped)
    given = dict(mapped)
    for prefix, own, block in _blocks(mapped, model):
        _rename(mapped, prefix, own, map_block_weights(own, block))
    for key in [k for k in mapped if k not in target and k.endswith('num_batches_tracked')]:
        del mapped[key]  # a frozen BatchNorm counts no batches
    check_weights(mapped, target, getattr(model, 'pretrained_cfg', {}).get('first_conv') or 'conv1', given)
    return mapped


def _rename(weights: dict[str, Tensor], prefix: str, own: Mapping[str, Tensor], mapped: Mapping[str, Tensor]) -> None:
    for name in own:
        del weights[prefix + name]
    weights |= {prefix + name: v for name, v in mapped.items()}


def seresnet50_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of timm's `seresnet50` that computes what a model with neutral SE at the standard position does."""
    weights = dict(model.state_dict())
    for prefix, own, block in _blocks(weights, model):
        _rename(weights, prefix, own, to_timm(own, block.last_norm))
    return weights


def _blocks(weights: Mapping[str, Tensor], model: nn.Module) -> Iterator[tuple[str, dict[str, Tensor], SEBlock]]:
    """The prefix of each SE block's keys, its share of the weights by their names in the block, the block."""
    for name, block in model.named_modules(remove_duplicate=False):  # as a state dict has them
        if isinstance(block, SEBlock):
            prefix = ''.join(f'{part}.' for part in name.split('.') if part not in ('', _CHECKPOINT_WRAPPER))
            yield prefix, {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}, block


def clean_weights(
        state_dict: Mapping[str, Any],
        others: Container[str] = (),
        wrapped: bool = True,
) -> dict[str, Tensor]:
    """Copy a state dict, less the prefixes of wrappers if its keys are `wrapped`; `others` need be no weights."""
    if not isinstance(state_dict, Mapping):
        # no TypeError, which timm takes for the sign of a filter function that does not want the model
        raise RuntimeError(
            f'Expected a state dict, got a {type(state_dict).__name__}; timm.models.load_state_dict() reads one from a '
            'file.')
    cleaned: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise RuntimeError(f'{key!r} is a key of type {type(key).__name__}; expected names of weights.')
        if isinstance(value, Tensor) and (value.is_nested or value.layout != torch.strided):
            raise RuntimeError(f'{key!r} is {"nested" if value.is_nested else value.layout}; expected a dense tensor.')
        name = _PREFIXES.sub('', key) if wrapped else key
        if name not in others and not _is_weight(value):
            if not isinstance(value, Tensor):
                raise RuntimeError(
                    f'{key!r} holds a {type(value).__name__}, not a tensor: this is {recognise(state_dict)}. '
                    "Pass the state dict inside it, for example checkpoint['state_dict'].")
            if key == 'n_averaged':  # of torch's AveragedModel
                continue
            if not key.endswith('num_batches_tracked'):
                raise RuntimeError(f'{key!r} has dtype {value.dtype}; expected floating-point weights.')
        if name in cleaned:
            raise RuntimeError(f'{origin[name]!r} and {key!r} are both {name!r}; keep the one that is meant.')
        cleaned[name], origin[name] = value, key
    return cleaned


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
