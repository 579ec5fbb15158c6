"""Training with less memory: the block that uses the memory-efficient functions where it may."""
from types import FunctionType
from typing import TypeGuard, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..bottleneck import SEBottleneck
from ..squeeze_excite import SEModule
from ..stock import is_pointwise, is_stock, is_stock_conv
from ..torch_internals import has_global_hooks, is_transformed
from .conv import conv_norm, conv_norm_se_add_relu
from .norm import norm_relu_conv, norm_se_add_relu

__all__ = ['MemoryEfficientBottleneck', 'set_memory_efficient']

# K * K / C, of a 1x1 convolution of K channels to C, up to which its output is not made; 16 in layer1
MAX_GRAM = 16


def set_memory_efficient(model: nn.Module, enable: bool = True) -> None:
    """Make a model's SE blocks save less for the backward pass, or as much as ever; their parameters stay as they are.

    A block uses it where it can, and computes as ever where it cannot: in eval mode, under torch.compile and
    TorchScript, with other norms than BatchNorm, and so on (docs/memory.md has the list). Results differ by rounding.

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
    if type(x) is not Tensor or is_transformed():
        return False
    if has_global_hooks() or not torch.amp.is_autocast_available(x.device.type):
        return False
    se = block.se_standard
    return (
        _is_norm(block.bn3) and is_stock(block.act3, nn.ReLU) and is_stock(se, SEModule)
        and all(is_pointwise(fc) and fc.bias is not None for fc in (se.fc1, se.fc2))
        and is_stock(se.act, nn.ReLU)
        and (block.drop_path is None or is_stock(block.drop_path, DropPath))
        and len(x) > 1  # for a single number a channel BatchNorm has an error of its own
    )


def forward(block: SEBottleneck, x: Tensor) -> Tensor:
    """The block's forward."""
    conv, norm, se = block.conv3, cast(nn.BatchNorm2d, block.bn3), cast(SEModule, block.se_standard)
    z = _norm_relu_conv(block.conv1(x), block.bn1, block.act1, block.conv2)
    gram = _is_gram_cheap(conv, z)
    if not gram and is_stock(block.drop_block, nn.Identity) and is_stock(block.aa, nn.Identity):
        z = _norm_relu_conv(z, block.bn2, block.act2, conv)
    else:
        z = block.act2(block.drop_block(block.bn2(z)))
        z = block.aa(z)  # type: ignore[misc]
        z = _cast(z) if gram else conv(z)

    # DropPath draws one number for each sample: what it makes of ones is what it would have multiplied by
    keep = None if block.drop_path is None else block.drop_path(torch.ones_like(z[:, :1, 0, 0]))
    shortcut = x if block.downsample is None else _downsample(block.downsample, x)
    if gram:
        return conv_norm_se_add_relu(z, shortcut.to(z.dtype), conv, norm, se, keep)
    return norm_se_add_relu(z, shortcut.to(z.dtype), norm, se, keep)


def _norm_relu_conv(x: Tensor, norm: nn.Module, act: nn.Module, conv: nn.Module) -> Tensor:
    if (
        _is_norm(norm) and is_stock(act, nn.ReLU) and is_stock_conv(conv) and conv.bias is None and _cast(x) is x
    ):
        return norm_relu_conv(x, norm, conv)
    return conv(act(norm(x)))


def _downsample(downsample: nn.Module, x: Tensor) -> Tensor:
    """timm's `downsample_conv`: a convolution and a norm."""
    if is_stock(downsample, nn.Sequential) and len(downsample) == 2:
        conv, norm = downsample
        if _is_gram_cheap(conv, x) and _is_norm(norm):
            return conv_norm(_cast(x), conv, norm)
    return downsample(x)


def _is_norm(norm: object) -> TypeGuard[nn.BatchNorm2d]:
    """A BatchNorm in training mode, its parameters in full precision."""
    return (
        is_stock(norm, nn.BatchNorm2d)
        and norm.training and norm.track_running_stats and norm.momentum is not None
        and not any(v is None for v in (*norm._parameters.values(), *norm._buffers.values()))
        and norm.weight.dtype in (torch.float32, torch.float64))


def _is_gram_cheap(conv: object, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """A 1x1 convolution of `x` that is cheaper without its output, with the Gram matrix of its input instead.

    That takes about 2 * K * K / C multiplications more for each number of the output, which K = 64 pays back and
    K = 128 does not (measured on a CPU). Weights by sample take as much room as the output where there are K pixels.
    """
    return (
        x.device.type != 'mps'  # which has no float64
        and is_pointwise(conv) and conv.bias is None
        and conv.in_channels ** 2 <= MAX_GRAM * conv.out_channels and x[0, 0].numel() >= 2 * conv.in_channels)


def _cast(x: Tensor) -> Tensor:
    """As autocast does before a convolution."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
