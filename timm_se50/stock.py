"""Whether a module is one of PyTorch's as it comes, so that another implementation can stand for it."""
from typing import TypeGuard, TypeVar

from torch import Tensor, nn

from .squeeze_excite import ZeroConv2d
from .torch_internals import has_call_hooks

ModuleT = TypeVar('ModuleT', bound=nn.Module)

__all__ = ['is_pointwise', 'is_stock', 'is_stock_conv', 'is_watched']


def is_stock(module: object, kind: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Whether calling `module` does what `kind` does and nothing else: no subclass (a parametrized or a quantized
    module is one), no hook, no forward of its own, no tensor subclass as a parameter."""
    return (
        isinstance(module, nn.Module) and type(module) is kind
        and not has_call_hooks(module, backward=True) and 'forward' not in vars(module)
        and all(type(p) in (Tensor, nn.Parameter) for p in module._parameters.values() if p is not None)
    )


def is_stock_conv(module: object) -> TypeGuard[nn.Conv2d]:
    """Whether `module` is such an `nn.Conv2d`, its padding zeros and given by numbers, as operators take it."""
    return is_stock(module, nn.Conv2d) and module.padding_mode == 'zeros' and not isinstance(module.padding, str)


def is_pointwise(module: object) -> TypeGuard[nn.Conv2d]:
    """Whether `module` is such an `nn.Conv2d` and one matrix for each pixel: 1x1, stride 1, no padding, no groups."""
    return (
        (is_stock(module, nn.Conv2d) or is_stock(module, ZeroConv2d))
        and module.kernel_size == (1, 1) and module.stride == (1, 1)
        and module.padding == (0, 0) and module.groups == 1)


def is_watched(module: nn.Module) -> bool:
    """Whether a call of `module` does more than the forward of its class: a hook, or a forward of its own."""
    return has_call_hooks(module) or 'forward' in vars(module)
