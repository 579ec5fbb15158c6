"""ResNet weights to SE-ResNet weights, such that the network computes what it computed before.

The standard position: with `fc2` zero the gate is sigmoid(0) = 0.5, exactly, and there the sigmoid is at its steepest.
Twice the weight and bias of the norm before it make up for that, exactly, since a factor of two changes no mantissa:
`0.5 * (2 * norm(x)) == norm(x)`. The other positions follow no norm; their gate is 2 * sigmoid (see SEModule).
"""
from collections import OrderedDict
from collections.abc import Container, Mapping
from typing import Any, cast

import torch
from timm.layers import RmsNorm2d, SimpleNorm2d
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from ..bottleneck import SEBlock
from ..squeeze_excite import POSITIONS, SEModule
from .check import check_weights
from .recognise import is_plain, recognise

__all__ = [
    'add_se_weights_', 'clean_weights', 'doubling_problem', 'map_resnet_weights', 'map_weights', 'neutral_weights']

# Norms whose output is linear in their weight and bias, so that doubling both doubles it.
LINEAR_NORMS = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, FrozenBatchNorm2d, RmsNorm2d, SimpleNorm2d)
# What DDP, torch.compile and a wrapper with a `model` attribute put before each key.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
# What torch's activation checkpointing puts into the names of modules, and takes out of those of weights.
_CHECKPOINT_WRAPPER = '_checkpoint_wrapped_module'


def doubling_problem(name: str, norm: Any) -> str | None:
    """Why the output of a block's last norm does not double with its weight and bias, None if it does."""
    linear = isinstance(norm, LINEAR_NORMS) and isinstance(getattr(norm, 'act', None), (nn.Identity, type(None)))
    if linear and norm.weight is not None and not hasattr(norm, 'parametrizations'):
        return None
    return (
        f'{name}: its last norm, {norm}, has no weight and bias that could be doubled to make up for a gate of '
        "0.5. Use another se_position ('pre', 'post' or 'identity'), which is neutral without that.")


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
        neutral |= {
            k: 2 * v for k, v in weights.items()  # a split BatchNorm has more than one of each
            if k.startswith(f'{norm}.') and k.endswith(('.weight', '.bias'))}
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
        RuntimeError: A key or a shape is not the model's, or a norm of the model cannot make up for a neutral gate.
            The message names it and says what the file looks like.
        TypeError: It is no state dict.
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
    target = model.state_dict()
    mapped = clean_weights(state_dict, {k for k, v in target.items() if not _is_weight(v)})
    metadata = getattr(mapped, '_metadata', {})
    for key in target.keys() ^ mapped.keys():
        module, _, name = key.rpartition('.')
        if name == 'num_batches_tracked' and f'{module}.running_mean' in target:
            if key in mapped:
                del mapped[key]  # a frozen BatchNorm counts no batches
            else:
                metadata.pop(module, None)  # of no version, as before torch 0.4.1: BatchNorm fills it in by itself
    first_convs = getattr(model, 'pretrained_cfg', {}).get('first_conv') or 'conv1'
    check_weights(mapped, target, adaptable, first_convs)
    if is_plain(mapped):
        add_se_weights_(mapped, model, assign)
    return mapped


def add_se_weights_(weights: dict[str, Tensor], model: nn.Module, assign: bool = False) -> None:
    """Put the weights of neutral SE modules into those of the plain network, and what makes up for the gates."""
    for name, block in model.named_modules():
        if isinstance(block, SEBlock):
            name = '.'.join(part for part in name.split('.') if part != _CHECKPOINT_WRAPPER)
            problem = doubling_problem(name, getattr(block, block.last_norm))
            if problem and block.se_position == 'standard':
                raise RuntimeError(problem)
            own = {k.removeprefix(f'{name}.'): v for k, v in weights.items() if k.startswith(f'{name}.')}
            own |= _se_weights(block, own['conv1.weight'] if assign else None)
            own |= neutral_weights(block, own)
            weights |= {f'{name}.{k}': v for k, v in own.items()}


def _se_weights(block: SEBlock, like: Tensor | None) -> dict[str, Tensor]:
    """The SE module's own weights by their keys in the block, on the device and in the dtype of `like` if given."""
    name = POSITIONS[block.se_position]
    se = cast(SEModule, block.get_submodule(name))
    if like is not None and se.fc1.weight.is_meta:  # it has no weights yet
        se = SEModule(se.fc1.in_channels, se.fc1.in_channels // se.fc1.out_channels, se.gate_scale,
                      device=like.device, dtype=like.dtype)
    return {f'{name}.{k}': v if like is None else v.to(like) for k, v in se.state_dict().items()}


def clean_weights(state_dict: Mapping[str, Any], others: Container[str] = ()) -> OrderedDict[str, Tensor]:
    """Copy a state dict, less prefixes.

    Args:
        state_dict: Weights by key.
        others: Keys that hold something else than a weight in the model, and may do so here.

    Raises:
        RuntimeError: Another value is no weight.
        TypeError: It is no dict.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f'Expected a state dict, got a {type(state_dict).__name__}; timm.models.load_state_dict() reads one from a '
            'file.')
    cleaned: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state_dict.items():
        name = _without_prefixes(key)
        if name not in others and not _is_weight(value):
            if not isinstance(value, Tensor):
                raise RuntimeError(
                    f'{key!r} holds a {type(value).__name__}, not a tensor: this is {recognise(state_dict)}. '
                    "Pass the state dict inside it, for example checkpoint['state_dict'].")
            if key == 'n_averaged':  # of torch's AveragedModel
                continue
            if not key.endswith('num_batches_tracked'):
                raise RuntimeError(f'{key!r} has dtype {value.dtype}; expected floating-point weights.')
        cleaned[name] = value
    metadata = getattr(state_dict, '_metadata', None)  # the version of each module, which it goes by when loading
    if metadata is not None:
        cleaned._metadata = {  # type: ignore[attr-defined]
            _without_prefixes(f'{k}.')[:-1]: dict(v) for k, v in metadata.items()}
    return cleaned


def _without_prefixes(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition('.')[2]
    return key


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
