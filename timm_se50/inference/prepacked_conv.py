"""A convolution for inference on a CPU that keeps its weight in oneDNN's order.

`torch.nn.Conv2d` brings its weight into that order in every call. For a ResNet-50 and one image that takes longer than
all it does beside its convolutions.
"""
from typing import Any, NamedTuple

import torch
from timm.layers import register_notrace_module
from torch import nn

from ..torch_internals import (
    convolution_pointwise,
    has_packed_convolution,
    is_recorded,
    reorder_convolution_weight,
)

__all__ = ['PrepackedConv2d']


class _Packed(NamedTuple):
    source: torch.Tensor  # the weight it was made of
    state: tuple  # the size of the input that it was made for, and what the weight was at the time
    weight: torch.Tensor  # in oneDNN's order


class PrepackedConv2d(nn.Conv2d):
    """A convolution, with padding by numbers and by zeros.

    In float32 on a CPU, where gradients are off, it keeps the reordered weight from one call to the next, as an
    attribute that is in no copy and no checkpoint. oneDNN's order depends on the size of the input: another size has
    the weight reordered again, as `torch.nn.Conv2d` does in any case. The output is then channels_last, whatever the
    input is: in oneDNN that is as fast or faster. Elsewhere it computes what `torch.nn.Conv2d` does.
    """
    __jit_ignored_attributes__ = ('_packed',)
    _packed = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves the branch of a lone test out
            if _is_packable(x, self.weight) and x.shape[1] == self.in_channels:
                return self._forward_packed(x)
        return self._conv_forward(x, self.weight, self.bias)

    @torch.jit.unused
    def _forward_packed(self, x: torch.Tensor) -> torch.Tensor:
        # torch.compile's operators: what it makes of a Conv2d for a CPU, with freezing
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        weight, bias = self.weight, None if self.bias is None else self.bias.contiguous()
        state = (x.shape, weight.data_ptr(), weight._version)
        known: _Packed | None = self._packed  # one read, so that threads may share the module
        if known is None or known.source is not weight or known.state != state:
            packed = reorder_convolution_weight(weight, *geometry, x.shape)
            self._packed = known = _Packed(weight, state, packed)
        return convolution_pointwise(x, known.weight, bias, *geometry, 'none', [], '')

    def _apply(self, fn, recurse=True):
        self._packed = None  # a cast and back may end at the same address
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_packed': None}  # it cannot be pickled


# timm's FX feature extraction takes it as a whole: it cannot record a choice by device
register_notrace_module(PrepackedConv2d)


def _is_packable(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN's operators, which know no gradient, no autocast and no tensor subclass, stand for conv2d."""
    if is_recorded() or torch.is_grad_enabled() or torch.is_autocast_enabled('cpu'):
        return False
    return (
        not weight.is_inference()  # which keeps no count of changes
        and type(x) is torch.Tensor and x.layout == torch.strided and x.dim() == 4 and x.numel() > 0
        and x.is_cpu and weight.is_cpu and x.dtype == weight.dtype == torch.float32
        and has_packed_convolution()
    )
