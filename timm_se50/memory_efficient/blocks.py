"""Training with less memory: the block that uses the memory-efficient functions where it may."""
from collections.abc import Sequence
from types import FunctionType
from typing import TypeGuard, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..bottleneck import SEBottleneck
from ..squeeze_excite import SEModule
from ..stock import is_pointwise, is_stock, is_stock_conv
from ..torch_internals import has_global_hooks, is_compiling, is_transformed
from .arithmetic import traced_norm_relu, traced_norm_se_add_relu
from .convolution import convolution
from .eager import bottleneck, norm_se_add_relu

__all__ = ['MemoryEfficientBottleneck', 'set_memory_efficient']

# Input channels of conv3 up to which its output is made again in the backward pass, not saved: those of layer1
MAX_REMADE = 64


def set_memory_efficient(model: nn.Module, enable: bool = True) -> None:
    """Make a model's SE blocks save less for the backward pass, or as much as ever; their parameters stay as they are.

    A block uses it where it can, and computes as ever where it cannot: in eval mode, under TorchScript, with other
    norms than BatchNorm, and so on (docs/memory.md has the list). Results differ by rounding.

    Args:
        model: A model with `SEBottleneck` blocks, or one such block.
        enable: Whether to save memory.

    Raises:
        ValueError: The model has no such block.
    """
    blocks = [m for m in model.modules() if type(m) in (SEBottleneck, MemoryEfficientBottleneck)]
    if not blocks:
        raise ValueError(
            f'The {type(model).__name__} has no SEBottleneck block; put SE in first, with replace_blocks_(model).')
    for block in blocks:
        block.__class__ = MemoryEfficientBottleneck if enable else SEBottleneck  # as surgery.py patches a block


class MemoryEfficientBottleneck(SEBottleneck):
    """An `SEBottleneck` that saves less for the backward pass, where that computes the same."""
    # TorchScript knows no super(), and compiles a method under the name of its function
    plain_forward = FunctionType(SEBottleneck.forward.__code__, SEBottleneck.forward.__globals__, 'plain_forward')

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves the branch of a lone test out
            if is_applicable(self, x):
                return forward(self, x)
        return self.plain_forward(x)


def is_applicable(block: SEBottleneck, x: Tensor) -> bool:
    """Whether `forward` computes what the block does of `x`, and nobody looks on who would miss what it leaves out."""
    # what records or transforms, and subclasses of Tensor, see through the plain path only
    if type(x) is not Tensor or (is_transformed() and not is_compiling()):
        return False
    if has_global_hooks() or not torch.amp.is_autocast_available(x.device.type):
        return False
    se = block.se_standard
    return (
        _is_norm(block.bn3) and is_stock(block.act3, nn.ReLU) and is_stock(se, SEModule)
        and all(is_pointwise(fc) and fc.bias is not None for fc in (se.fc1, se.fc2))
        and is_stock(se.act, nn.ReLU)
        and (block.drop_path is None or is_stock(block.drop_path, DropPath))
        and x.ndim == 4 and len(x) > 1  # for a single number a channel BatchNorm has an error of its own
    )


def forward(block: SEBottleneck, x: Tensor) -> Tensor:
    """The block's forward."""
    convs = cast(Sequence[nn.Conv2d], (block.conv1, block.conv2, block.conv3))
    norms = cast(Sequence[nn.BatchNorm2d], (block.bn1, block.bn2, block.bn3))
    se, compiling = cast(SEModule, block.se_standard), is_compiling()
    as_one = (
        all(_is_conv(conv, x) for conv in convs) and all(_is_norm(norm) for norm in norms[:2])
        and is_stock(block.act1, nn.ReLU) and is_stock(block.act2, nn.ReLU)
        and is_stock(block.drop_block, nn.Identity) and is_stock(block.aa, nn.Identity))
    z = x
    if not as_one:
        z = block.act1(block.bn1(block.conv1(z)))
        z = block.aa(block.act2(block.drop_block(block.bn2(block.conv2(z)))))  # type: ignore[misc]
        z = block.conv3(z)
    elif compiling:
        z = block.conv2(traced_norm_relu(block.conv1(z), norms[0]))
        z = block.conv3(traced_norm_relu(z, norms[1]))

    # DropPath draws one number for each sample: what it makes of ones is what it would have multiplied by
    keep = None if block.drop_path is None else block.drop_path(torch.ones_like(z[:, :1, 0, 0]))
    shortcut = x
    if block.downsample is not None:
        for layer in block.downsample if is_stock(block.downsample, nn.Sequential) else (block.downsample,):
            shortcut = _call(layer, shortcut)
    if compiling:
        return traced_norm_se_add_relu(z, shortcut, norms[2], se, keep)
    if as_one:
        return bottleneck(x, shortcut, convs, norms, se, keep, convs[2].in_channels <= MAX_REMADE)
    return norm_se_add_relu(z, shortcut, norms[2], se, keep)


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output; of a convolution under autocast so that it saves no copy of its weight."""
    if not is_compiling() and torch.is_autocast_enabled(x.device.type) and _is_conv(layer, x):
        return convolution(x, layer)
    return layer(x)


def _is_conv(module: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """Whether a function of ours may stand for the module: a convolution that takes x in the precision that it has."""
    if not is_stock_conv(module) or module.bias is not None:
        return False
    device = x.device.type
    return x.dtype == (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else module.weight.dtype)


def _is_norm(norm: object) -> TypeGuard[nn.BatchNorm2d]:
    """A BatchNorm in training mode, its parameters in full precision."""
    return (
        is_stock(norm, nn.BatchNorm2d)
        and norm.training and norm.track_running_stats and norm.momentum is not None
        and not any(v is None for v in (*norm._parameters.values(), *norm._buffers.values()))
        and norm.weight.dtype in (torch.float32, torch.float64))
