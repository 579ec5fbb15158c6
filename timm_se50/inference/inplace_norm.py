"""BatchNorm in place: the inference form of the one in a ResNet's stem.

`timm.models.reparameterize_model()` asks each module for its inference form, alone. In the stem, where convolution and
BatchNorm are two modules of the model, BatchNorm cannot go into the convolution that way. At least it need not fill
new memory, which at batch 8 takes longer than the rest of it.
"""
from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import nn

from ..stock import is_stock
from ..torch_internals import is_recorded

__all__ = ['InplaceBatchNorm2d', 'fuse_norm']


def fuse_norm(norm: nn.Module) -> nn.Module:
    """The inference form of a BatchNorm, or the norm itself where it is watched or has no running statistics."""
    return InplaceBatchNorm2d(norm) if is_stock(norm, nn.BatchNorm2d) and norm.running_mean is not None else norm


class InplaceBatchNorm2d(nn.Module):
    """What a BatchNorm computes in eval mode, written into its input where no gradient is recorded.

    Args:
        norm: A `torch.nn.BatchNorm2d` with running statistics; it is left as it is.
    """
    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, norm: Any):
        super().__init__()
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias.detach()
        self.register_buffer('scale', scale[:, None, None])
        self.register_buffer('shift', shift[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or is_recorded() or x.dtype != self.scale.dtype:
            return torch.addcmul(self.shift, x, self.scale).to(x.dtype)
        return torch.addcmul(self.shift, x, self.scale, out=x)


# timm's FX feature extraction takes it as a whole: it cannot record a choice by dtype
register_notrace_module(InplaceBatchNorm2d)
