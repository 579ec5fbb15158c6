"""ResNet weights to SE-ResNet weights, such that the network computes what it computed before.

The standard position: with `fc2` zero the gate is sigmoid(0) = 0.5, exactly, and there the sigmoid is at its steepest.
Twice the weight and bias of the norm before it make up for that, exactly, since a factor of two changes no mantissa:
`0.5 * (2 * norm(x)) == norm(x)`. The other positions follow no norm; their gate is 2 * sigmoid (see SEModule).
"""
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from .bottleneck import SEBlock
from .recognise import is_se_key, recognise
from .squeeze_excite import POSITIONS, SEModule

__all__ = ['LINEAR_NORMS', 'clean_weights', 'map_resnet_weights', 'map_weights', 'neutral_weights']

# Norms whose output is linear in their weight and bias, so that doubling both doubles it.
LINEAR_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d)
# What DDP, torch.compile and a wrapper with a `model` attribute put before each key.
_PREFIXES = ('module.', '_orig_mod.', 'model.')


def neutral_weights(block: SEBlock, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What has to change in a block's weights for its SE module to change nothing.

    Args:
        block: The block.
        weights: Its state dict, the weights before SE came in.

    Returns:
        The changed entries only.
    """
    se = POSITIONS[block.se_position]
    neutral = {k: torch.zeros_like(weights[k]) for k in (f'{se}.fc2.weight', f'{se}.fc2.bias')}
    if block.se_position == 'standard':
        norm = block.last_norm
        neutral |= {k: 2 * weights[k] for k in (f'{norm}.weight', f'{norm}.bias') if k in weights}
    return neutral


def map_resnet_weights(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Map a ResNet's weights to those of the same ResNet with SE; timm's `pretrained_filter_fn`.

    The SE modules come out neutral: the model computes what the ResNet computed, bit for bit. A state dict that has
    SE weights already comes out as it went in. Either may carry the key prefixes of DDP, torch.compile or a `model`
    attribute. The classifier and the first convolution's input channels need not be the model's, since
    `timm.create_model()` adapts those.

    Args:
        state_dict: Weights by key, for example of timm's or torchvision's resnet50; it is not changed.
        model: The model with SE blocks that is to load the result; it is not changed.

    Returns:
        A new dict for `model.load_state_dict()`. It shares its tensors with `state_dict` and `model`.

    Raises:
        RuntimeError: A key or a shape is not the model's. The message names it and says what the file looks like.
    """
    return map_weights(state_dict, model, adaptable=True)


def map_weights(
        state_dict: Mapping[str, Tensor],
        model: nn.Module,
        adaptable: bool = False,
        assign: bool = False,
) -> dict[str, Tensor]:
    """As `map_resnet_weights`, with nothing that differs let pass unless `adaptable`.

    With `assign` the tensors are to become the model's parameters, as `load_state_dict(assign=True)` has it: those of
    the SE modules then come out with the device and dtype of the block's other weights.
    """
    mapped, target = clean_weights(state_dict), model.state_dict()
    plain = not any(map(is_se_key, mapped))
    _check(mapped, target, plain, adaptable)
    if plain:
        for name, block in model.named_modules():
            if isinstance(block, SEBlock):
                weights = {k.removeprefix(f'{name}.'): v for k, v in mapped.items() if k.startswith(f'{name}.')}
                weights |= _se_weights(block, weights['conv1.weight'] if assign else None)
                weights |= neutral_weights(block, weights)
                mapped |= {f'{name}.{k}': v for k, v in weights.items()}
    return mapped


def _se_weights(block: SEBlock, like: Tensor | None) -> dict[str, Tensor]:
    """The SE module's own weights by their keys in the block, on the device and in the dtype of `like` if given."""
    name = POSITIONS[block.se_position]
    se = cast(SEModule, block.get_submodule(name))
    if like is not None and se.fc1.weight.is_meta:  # it has no weights yet
        se = SEModule(se.fc1.in_channels, se.fc1.in_channels // se.fc1.out_channels, se.gate_scale,
                      device=like.device, dtype=like.dtype)
    return {f'{name}.{k}': v if like is None else v.to(like) for k, v in se.state_dict().items()}


def clean_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy a state dict, less prefixes. Raises a RuntimeError where a value is no weight."""
    cleaned = {}
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f'{key!r} holds a {type(value).__name__}, not a tensor: this is {recognise(state_dict)}. '
                "Pass the state dict inside it, for example checkpoint['state_dict'].")
        if not value.is_floating_point() and not key.endswith('num_batches_tracked'):
            raise RuntimeError(f'{key!r} has dtype {value.dtype}; expected floating-point weights.')
        while key.startswith(_PREFIXES):
            key = key.partition('.')[2]
        cleaned[key] = value
    return cleaned


def _check(source: Mapping[str, Tensor], target: Mapping[str, Tensor], plain: bool, adaptable: bool) -> None:
    """Raise a RuntimeError for the first key or shape of `source` that is not that of `target`."""
    def adapted(key):
        return adaptable and key.startswith('fc.')

    expected = {k: tuple(v.shape) for k, v in target.items() if not (plain and is_se_key(k))}
    classifier_problems = []
    for key, shape in expected.items():
        if key not in source:
            # for files older than torch 0.4.1, BatchNorm fills num_batches_tracked in by itself
            if not adapted(key) and not key.endswith('num_batches_tracked'):
                _refuse(f'{key!r} is missing', source, target)
            continue
        found = tuple(source[key].shape)
        if adaptable and key == 'conv1.weight':
            found, shape = (found[:1] + found[2:]), (shape[:1] + shape[2:])
        if found != shape:
            problem = f'{key!r} has shape {tuple(source[key].shape)}, expected {tuple(target[key].shape)}'
            if not key.startswith('fc.'):
                _refuse(problem, source, target)
            classifier_problems.append(problem)
    for key in source:
        if key not in expected and not adapted(key):
            _refuse(f'{key!r} is no key of the model', source, target)
    if classifier_problems and not adaptable:  # and all else fits
        raise RuntimeError(
            f'{classifier_problems[0]}. The classifier of the weights is for another num_classes or global_pool. '
            'Create the model with those of the weights; model.reset_classifier() gives it a new one afterwards.')


def _refuse(problem: str, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    raise RuntimeError(
        f'{problem}. The weights look like {recognise(source)}; the model is {recognise(target)}. '
        'Use weights of the same architecture (a plain ResNet or one with the same SE settings), '
        'or create the model with the settings of the weights.')
