"""Whether something else than eager PyTorch takes the operators that run, and so is to see the plain ones."""
import torch
from torch.autograd import forward_ad
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

__all__ = ['is_recorded', 'is_transformed']


def is_transformed() -> bool:
    """Whether torch.compile, torch.export, torch.onnx, torch.jit.trace, torch.fx, torch.func or forward-mode
    differentiation does."""
    return (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or is_fx_symbolic_tracing()
        or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def is_recorded() -> bool:
    """Whether one of these does, or a dispatch mode such as make_fx or FlopCounterMode."""
    if torch.jit.is_scripting():
        return False
    return _is_recorded()


@torch.jit.unused
def _is_recorded() -> bool:
    return is_transformed() or torch._C._len_torch_dispatch_stack() > 0
