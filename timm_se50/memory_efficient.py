"""Training with less memory: where SE blocks may use the memory-efficient functions, and do."""
from typing import TYPE_CHECKING, TypeGuard, TypeVar, cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .memory_efficient_conv import conv_norm, conv_norm_se_add_relu
from .memory_efficient_norm import norm_se_add_relu
from .squeeze_excite import SEModule

if TYPE_CHECKING:
    from .bottleneck import SEBottleneck

ModuleT = TypeVar('ModuleT', bound=nn.Module)

__all__ = ['is_applicable', 'residual', 'set_memory_efficient']


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
    blocks = [m for m in model.modules() if hasattr(m, 'memory_efficient')]
    if not blocks:
        raise ValueError(
            f'The {type(model).__name__} has no SEBottleneck block; put SE in first, with replace_blocks_(model).')
    for block in blocks:
        block.memory_efficient = enable  # type: ignore[assignment]


def _is_stock(module: object, kind: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Whether calling `module` does what `kind` does and nothing else: no subclass (a parametrized or a quantized
    module is one), no hook, no forward of its own, no tensor subclass as a parameter."""
    return (
        isinstance(module, nn.Module) and type(module) is kind
        and 'forward' not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and all(type(p) in (Tensor, nn.Parameter) for p in module._parameters.values() if p is not None)
    )


def is_applicable(block: 'SEBottleneck', x: Tensor) -> bool:
    """Whether to use `residual`: it is asked for, and computes what the block does from conv3's input `x` on."""
    if not block.memory_efficient:
        return False
    # fx passes a Proxy; torch.compile, export and torch.func see through the plain path but not through these functions
    if type(x) is not Tensor or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._are_functorch_transforms_active() or torch_module._has_any_global_hook():
        return False
    se = block.se
    return (
        _is_norm_fusible(block.bn3) and _is_stock(block.act3, nn.ReLU)
        and _is_stock(se, SEModule) and se.gate_scale == 1.0
        and _is_stock(se.fc1, nn.Conv2d) and _is_stock(se.fc2, nn.Conv2d) and _is_stock(se.act, nn.ReLU)
        and (block.drop_path is None or _is_stock(block.drop_path, DropPath))
        and x.numel() > x.shape[1]  # for a single number a channel BatchNorm has an error of its own
    )


def residual(block: 'SEBottleneck', x: Tensor, shortcut: Tensor) -> Tensor:
    """The rest of the block, from conv3's input `x` and the block's input, `shortcut`, on."""
    norm, se = cast(nn.BatchNorm2d, block.bn3), cast(SEModule, block.se)
    # timm's DropPath draws one number for each sample, so with ones it gives what it would have multiplied by
    keep = None if block.drop_path is None else block.drop_path(torch.ones_like(x[:, :1, 0, 0]))
    if block.downsample is not None:
        shortcut = _downsample(block.downsample, shortcut)
    conv = block.conv3
    if _is_conv_fusible(conv, x):
        x = _cast(x)
        return conv_norm_se_add_relu(x, shortcut.to(x.dtype), conv, norm, se, keep)
    x = conv(x)
    return norm_se_add_relu(x, shortcut.to(x.dtype), norm, se, keep)


def _downsample(downsample: nn.Module, x: Tensor) -> Tensor:
    """timm's `downsample_conv`: a convolution and a norm."""
    if type(downsample) is nn.Sequential and len(downsample) == 2:
        conv, norm = downsample
        if _is_conv_fusible(conv, x) and _is_norm_fusible(norm):
            return conv_norm(_cast(x), conv, norm)
    return downsample(x)


def _is_norm_fusible(norm: object) -> TypeGuard[nn.BatchNorm2d]:
    """A BatchNorm in training mode, its parameters in full precision."""
    return (
        _is_stock(norm, nn.BatchNorm2d)
        and norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
        and norm.weight.dtype in (torch.float32, torch.float64))


def _is_conv_fusible(conv: object, x: Tensor) -> TypeGuard[nn.Conv2d]:
    """A 1x1 convolution for which the Gram matrix is cheaper than its output.

    For each number of its output the Gram matrix costs K * K / C multiplications more, and weights by sample take as
    much room as the output where there are K pixels.
    """
    return (
        _is_stock(conv, nn.Conv2d) and conv.bias is None and conv.groups == 1
        and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.padding == (0, 0)
        and conv.in_channels ** 2 <= 32 * conv.out_channels and x[0, 0].numel() >= 2 * conv.in_channels)


def _cast(x: Tensor) -> Tensor:
    """As autocast does before a convolution."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
