"""The inference form of an SE block, which `timm.utils.reparameterize_model()` puts in its place.

BatchNorm goes into the convolution before it. In an `SEBottleneck` of the standard position most of SE goes as well. A
1x1 convolution commutes with the mean, so the squeeze is taken of conv3's input, which has a quarter of the channels:
`fc1(mean(conv3(h))) == (fc1 @ conv3)(mean(h))`, with the product of the two made once, in float64. Scaling and addition
are one pass, into conv3's output where nobody else has that. Activations stay the modules that they were, for whoever
hooks them.
"""
import copy
from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..block_weights import BATCH_NORMS
from ..squeeze_excite import SEModule
from ..stock import is_pointwise, is_stock, is_stock_conv, is_watched
from ..torch_internals import has_function_modes, has_global_hooks, is_recorded
from .prepacked_conv import PrepackedConv2d

__all__ = ['InferenceBottleneck', 'fuse_block']


@torch.no_grad()
def fuse_block(block: nn.Module) -> nn.Module:
    """Make the inference form of an SE block; `block` is left as it is and shares no tensor with it.

    Whatever the mode of `block`, the result computes what the block computes in eval mode, up to rounding. What acts
    in training only is gone. A norm that does not fold (GroupNorm, BatchNorm without running statistics) stays.

    Args:
        block: An `SEBottleneck` or `SEBasicBlock`, its norms folded already or not.

    Returns:
        An `InferenceBottleneck`, or a block of the same class, its norms folded, if SE is at another position or a
        layer does not fold; in eval mode.
    """
    new: Any = copy.deepcopy(block).eval()
    places = [(new, f'conv{i}', f'bn{i}') for i in (1, 2, 3)]
    if is_stock(new.downsample, nn.Sequential):
        names = list(new.downsample._modules)
        places += [(new.downsample, *pair) for pair in zip(names, names[1:])]
    for layers, conv, norm in places:
        if _folds(getattr(layers, conv, None), getattr(layers, norm, None)):
            setattr(layers, conv, _fold(getattr(layers, conv), getattr(layers, norm)))
            setattr(layers, norm, nn.Identity())
    new.drop_path, new.drop_block = None, nn.Identity()
    se_folds = _se_folds(new)
    for layers, conv, _ in places:
        if is_stock_conv(getattr(layers, conv, None)):
            getattr(layers, conv).__class__ = PrepackedConv2d
    return InferenceBottleneck(new) if se_folds else new


class InferenceBottleneck(nn.Module):
    """An `SEBottleneck` of the standard position, for inference.

    Args:
        block: The block, its norms folded; it gives away its submodules.
    """
    inference_form = True  # what surgery and checkpoints refuse it by, without an import of this module

    def __init__(self, block: Any):
        super().__init__()
        self.conv1, self.act1, self.conv2, self.act2 = block.conv1, block.act1, block.conv2, block.act2
        self.aa, self.conv3, self.act3, self.downsample = block.aa, block.conv3, block.act3, block.downsample
        self.gate = _Gate(block.se_standard, block.conv3)
        self.stride, self.dilation = block.stride, block.dilation  # as timm's blocks have them
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)

        x = self.conv1(x)
        x = self.act1(x)

        x = self.conv2(x)
        x = self.act2(x)
        x = self.aa(x)

        gate, x = self.gate(x), self.conv3(x)
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves the branch of a lone test out
            if self._may_overwrite(x, shortcut, gate):  # new memory costs more than the arithmetic
                return self.act3(torch.addcmul(shortcut, x, gate, out=x))
        return self.act3(torch.addcmul(shortcut, x, gate))

    @torch.jit.unused
    def _may_overwrite(self, x: torch.Tensor, shortcut: torch.Tensor, gate: torch.Tensor) -> bool:
        """Whether `x`, of conv3, is memory that nobody else has: conv3 made it, and gave it to no hook and no mode."""
        return (
            not torch.is_grad_enabled() and is_stock(self.conv3, PrepackedConv2d) and not has_global_hooks()
            and not is_recorded() and not has_function_modes() and x.dtype == shortcut.dtype == gate.dtype)


# timm's FX feature extraction takes the block as a whole: it cannot record a choice by dtype
register_notrace_module(InferenceBottleneck)


class _Gate(nn.Module):
    """The gate of an SE module behind `conv`, (N, C, 1, 1), from the input of `conv`."""

    def __init__(self, se: Any, conv: Any):
        super().__init__()
        like, learns = se.fc1.weight.detach(), se.fc1.weight.requires_grad
        se, conv = _float64(se), _float64(copy.deepcopy(conv))
        fc1, fc2, conv3 = (m.weight.flatten(1) for m in (se.fc1, se.fc2, conv))
        # linear layers, not 1x1 convolutions, which cost more on a vector
        self.fc1 = _linear(fc1 @ conv3, fc1 @ conv.bias + se.fc1.bias)
        self.act = se.act
        self.fc2 = _linear(fc2 * se.logit_scale, se.fc2.bias * se.logit_scale)
        self.gate_scale = se.gate_scale
        self.to(like).requires_grad_(learns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc2(self.act(self.fc1(x.mean((2, 3))))).sigmoid() * self.gate_scale
        return x[:, :, None, None]


def _fold(conv: Any, norm: Any) -> nn.Conv2d:
    """A convolution that computes what one and the norm behind it do."""
    like = conv.weight.detach()
    fused = fuse_conv_bn_eval(_float64(conv), _float64(norm)).to(like)
    return fused.requires_grad_(fused.weight.requires_grad)  # its bias, too


def _folds(conv: Any, norm: Any) -> bool:
    return (
        is_stock(conv, nn.Conv2d)
        and any(is_stock(norm, kind) for kind in BATCH_NORMS)
        and norm.running_mean is not None
    )


def _se_folds(block: Any) -> bool:
    """Whether an `InferenceBottleneck` can stand for a block, once its norms are folded."""
    norms = (getattr(block, name, None) for name in ('bn1', 'bn2', 'bn3'))
    se = block.se_standard
    if is_watched(block) or not is_stock(se, SEModule) or any(type(norm) is not nn.Identity for norm in norms):
        return False
    convs = (block.conv3, se.fc1, se.fc2)
    return all(is_pointwise(conv) and conv.bias is not None for conv in convs)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear


def _float64(module: Any) -> Any:
    """In double precision, and on the CPU, since not every device has that."""
    return module.cpu().double()
