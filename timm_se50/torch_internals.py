"""What is used of PyTorch under private names, each with a way out for a PyTorch that has it no more.

The way out is the plain path: a block then computes as timm's does, and no more than that is lost. (`_modules`,
`_parameters`, `_buffers`, `_apply` and `_load_from_state_dict` of nn.Module are used as well, by overriding or reading
them as PyTorch's own wrappers do.)
"""
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = [
    'convolution_pointwise', 'has_call_hooks', 'has_function_modes', 'has_global_hooks', 'has_packed_convolution',
    'is_batched', 'is_compiling', 'is_recorded', 'is_transformed', 'reorder_convolution_weight',
]


def is_transformed() -> bool:
    """Whether torch.compile, torch.export, torch.onnx, torch.jit.trace, torch.fx, torch.func or forward-mode
    differentiation takes the operators that run, and so is to see the plain ones."""
    return (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_fx_tracing()
        or bool(_call(torch._C, '_are_functorch_transforms_active', True))
        or getattr(forward_ad, '_current_level', 0) >= 0)


def is_compiling() -> bool:
    """Whether torch.compile traces this, and not torch.export, which older versions do not tell from it."""
    return torch.compiler.is_dynamo_compiling() and not _call(torch.compiler, 'is_exporting', True)


def is_recorded() -> bool:
    """Whether one of these does, or a dispatch mode such as make_fx or FlopCounterMode."""
    if torch.jit.is_scripting():
        return False
    return _is_recorded()


@torch.jit.unused
def _is_recorded() -> bool:
    return is_transformed() or _call(torch._C, '_len_torch_dispatch_stack', 1) > 0


def _is_fx_tracing() -> bool:
    for name in ('is_fx_symbolic_tracing', 'is_fx_tracing'):  # the second is true inside torch.compile, too
        tracing = getattr(_symbolic_trace, name, None)
        if tracing is not None:
            return tracing()
    return True


def has_function_modes() -> bool:
    """Whether a TorchFunctionMode is given what functions return; torch.device() as a context is one, too."""
    return _call(torch._C, '_len_torch_function_stack', 1) > 0


def has_global_hooks() -> bool:
    """Whether hooks are registered for all modules there are."""
    return bool(_call(nn.modules.module, '_has_any_global_hook', True))


def has_call_hooks(module: nn.Module, backward: bool = False) -> bool:
    """Whether a call of a module runs hooks; of the backward pass too, if asked."""
    return bool(
        getattr(module, '_forward_hooks', True) or getattr(module, '_forward_pre_hooks', True)
        or (backward and (getattr(module, '_backward_hooks', True) or getattr(module, '_backward_pre_hooks', True))))


def is_batched(x: Tensor) -> bool:
    """Whether a tensor stands for many, as in `torch.autograd.grad(is_grads_batched=True)`."""
    return bool(_call(getattr(torch._C, '_functorch', None), 'is_legacy_batchedtensor', False, x))


def has_packed_convolution() -> bool:
    """Whether there are torch.compile's operators for convolutions whose weights are in oneDNN's order."""
    return (
        torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
        and reorder_convolution_weight is not None and convolution_pointwise is not None)


# Where `has_packed_convolution()`: a weight in oneDNN's order, and a convolution with it and what follows it pointwise
reorder_convolution_weight: Any = getattr(torch.ops.mkldnn, '_reorder_convolution_weight', None)
convolution_pointwise: Any = getattr(torch.ops.mkldnn, '_convolution_pointwise', None)


_symbolic_trace: Any = getattr(torch.fx, '_symbolic_trace', None)  # looked up once, since each convolution asks


def _call(owner: Any, name: str, otherwise: Any, *args) -> Any:
    """What a function gives, and `otherwise` where there is none of that name."""
    function = getattr(owner, name, None)
    return otherwise if function is None else function(*args)
