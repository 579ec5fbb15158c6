"""What a backward that is written by hand has no answer to."""
import torch
from torch import Tensor

from ..torch_internals import is_batched, is_compiling

__all__ = ['refuse_unknown_backward']


def refuse_unknown_backward(d_out: Tensor) -> None:
    """Raise a RuntimeError in a backward that is asked for more than gradients."""
    if torch.is_grad_enabled():
        what = 'second derivative, and backward was called with create_graph=True'
    elif not is_compiling() and is_batched(d_out):
        what = 'rule for is_grads_batched=True (or vectorize=True)'
    else:
        return
    raise RuntimeError(
        f'memory_efficient=True has no {what}. '
        'Call timm_se50.set_memory_efficient(model, False) before the forward pass.')
