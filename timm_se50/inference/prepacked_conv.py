"""A convolution for inference on a CPU that keeps its weight in oneDNN's order.

`torch.nn.Conv2d` brings its weight into that order in every call. For a ResNet-50 and one image that takes longer than
all it does beside its convolutions.
"""
import weakref
from typing import Any, NamedTuple

import torch
from timm.layers import register_notrace_module
from torch import nn
from torch.nn import functional as F

from ..torch_internals import (
    convolution_pointwise,
    has_packed_convolution,
    is_recorded,
    reorder_convolution_weight,
)

__all__ = ['PrepackedConv2d']


class _Packed(NamedTuple):
    source: weakref.ref  # the weight it was made of; a tensor made later may have the address of one that is gone
    state: tuple[int, ...]  # what that and the bias were at the time
    input_size: torch.Size  # what it was made for
    weight: torch.Tensor  # in oneDNN's order


def _state(*tensors: torch.Tensor | None) -> tuple[int, ...]:
    return tuple(n for t in tensors if t is not None for n in (t.data_ptr(), t._version))


class PrepackedConv2d(nn.Module):
    """A convolution.

    In float32 on a CPU, where gradients are off, it keeps the reordered weight from one call to the next, as an
    attribute that is in no copy and no checkpoint. oneDNN's order depends on the size of the input: another size has
    the weight reordered again, as `torch.nn.Conv2d` does in any case. The output is then channels_last, whatever the
    input is: in oneDNN that is as fast or faster. Elsewhere it computes what `torch.nn.Conv2d` does.

    Args:
        conv: The convolution, with padding by numbers and by zeros; its parameters are taken over.
    """
    __jit_ignored_attributes__ = ('_packed',)

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self._packed: _Packed | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves the branch of a lone test out
            if _is_packable(x, self.weight, self.bias) and x.shape[1] == self.weight.shape[1] * self.groups:
                return self._forward_packed(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    @torch.jit.unused
    def _forward_packed(self, x: torch.Tensor) -> torch.Tensor:
        # torch.compile's operators: what it makes of a Conv2d for a CPU, with freezing
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight, bias = self.weight, None if self.bias is None else self.bias.contiguous()
        known = self._packed  # one read, so that threads may share the module
        state = _state(weight, self.bias)
        if known is None or known.source() is not weight or known.state != state:
            known = _Packed(weakref.ref(weight), state, torch.Size(), weight)
        if known.input_size != x.shape:
            packed = reorder_convolution_weight(weight, *geometry, x.shape)
            self._packed = known = known._replace(input_size=x.shape, weight=packed)
        return convolution_pointwise(x, known.weight, bias, *geometry, 'none', [], '')

    def _apply(self, fn, recurse=True):
        self._packed = None  # a cast and back may end at the same address
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args):
        self._packed = None  # torch cannot swap a tensor that a weak reference is kept of
        super()._load_from_state_dict(*args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_packed': None}  # it cannot be pickled

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return (f'{in_channels * self.groups}, {out_channels}, kernel_size={tuple(self.weight.shape[2:])}, '
                f'stride={self.stride}')


# timm's FX feature extraction takes it as a whole: it cannot record a choice by device
register_notrace_module(PrepackedConv2d)


def _is_packable(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether oneDNN's operators, which know no gradient, no autocast and no tensor subclass, stand for conv2d."""
    if is_recorded() or torch.is_grad_enabled() or torch.is_autocast_enabled('cpu'):
        return False
    if weight.is_inference() or (bias is not None and bias.is_inference()):  # keeps no count of changes
        return False
    return (
        type(x) is torch.Tensor and x.layout == torch.strided and x.dim() == 4 and x.numel() > 0
        and x.is_cpu and weight.is_cpu and x.dtype == weight.dtype == torch.float32
        and has_packed_convolution()
    )
