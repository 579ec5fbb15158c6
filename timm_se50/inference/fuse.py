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
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..block_weights import BATCH_NORMS
from ..squeeze_excite import SEModule
from ..stock import is_pointwise, is_stock, is_stock_conv, is_watched
from ..torch_internals import has_function_modes, has_global_hooks, is_recorded
from .prepacked_conv import PrepackedConv2d

__all__ = ['InferenceBottleneck', 'fuse_block']


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
    for name in ('conv1', 'conv2', 'conv3'):
        norm = name.replace('conv', 'bn')
        if _folds(getattr(new, name, None), getattr(new, norm, None)):
            _fold_(getattr(new, name), getattr(new, norm))
            setattr(new, norm, nn.Identity())
    if is_stock(new.downsample, nn.Sequential):
        new.downsample = _fold_sequential(new.downsample)
    new.drop_path, new.drop_block = None, nn.Identity()
    if _se_folds(new):
        new = InferenceBottleneck(new)
    _prepack_(new)
    return new


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
        fc1, fc2, conv3 = (_float64(m.weight).flatten(1) for m in (se.fc1, se.fc2, conv))
        bias1, bias2, bias3 = (_float64(m.bias) for m in (se.fc1, se.fc2, conv))
        # linear layers, not 1x1 convolutions, which cost more on a vector
        self.fc1 = _linear(fc1 @ conv3, fc1 @ bias3 + bias1, se.fc1.weight)
        self.act = se.act
        self.fc2 = _linear(fc2 * se.logit_scale, bias2 * se.logit_scale, se.fc2.weight)
        self.gate_scale = se.gate_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc2(self.act(self.fc1(x.mean((2, 3))))).sigmoid() * self.gate_scale
        return x[:, :, None, None]


def _prepack_(layers: nn.Module) -> None:
    """Put a `PrepackedConv2d` in place of each convolution of a block."""
    for name, layer in list(layers.named_children()):
        if is_stock_conv(layer):
            setattr(layers, name, PrepackedConv2d(layer))
        elif name == 'downsample' and is_stock(layer, nn.Sequential):
            _prepack_(layer)


def _fold_sequential(layers: nn.Sequential) -> nn.Sequential:
    """The layers of a shortcut, less each norm that folds into the convolution before it."""
    folded: list[nn.Module] = []
    for layer in layers:
        if folded and _folds(folded[-1], layer):
            _fold_(folded[-1], layer)
        else:
            folded.append(layer)
    return nn.Sequential(*folded)


def _fold_(conv: Any, norm: Any) -> None:
    """Put a norm into the weight and bias of the convolution before it."""
    like = conv.weight
    weight, bias = fuse_conv_bn_weights(
        _float64(conv.weight), None if conv.bias is None else _float64(conv.bias),
        _float64(norm.running_mean), _float64(norm.running_var), norm.eps,
        None if norm.weight is None else _float64(norm.weight), None if norm.bias is None else _float64(norm.bias))
    conv.weight, conv.bias = _parameter(weight, like), _parameter(bias, like)


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


def _linear(weight: torch.Tensor, bias: torch.Tensor, like: nn.Parameter) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = _parameter(weight.contiguous(), like), _parameter(bias, like)
    return linear


def _parameter(x: torch.Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(x.detach().to(like), requires_grad=like.requires_grad)


def _float64(x: torch.Tensor) -> torch.Tensor:
    """In double precision, and on the CPU, since not every device has that."""
    return x.detach().cpu().double()
