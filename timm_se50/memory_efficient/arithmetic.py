"""The end of a block, `relu(keep * se(norm(z)) + shortcut)`, as the formula that every engine computes.

With x^ = (z - mean) / std the normalized output of conv3, the squeeze is gamma * mean(x^) + beta, and the block ends in

    relu(scale * x^ + shift + shortcut)

with one scale and one shift for each channel of each sample. So the large maps are read twice, once for statistics and
once for this. Backward, with g the gradient that passes the ReLU, all that is needed of the large maps is two sums over
the pixels of each channel of each sample, that of g and that of g * x^.
"""
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..squeeze_excite import SEModule
from .batch_norm import update_running_

__all__ = ['excite', 'excite_backward', 'parameters', 'traced_norm_relu', 'traced_norm_se_add_relu']


def parameters(norm: nn.BatchNorm2d, se: SEModule) -> tuple[Tensor, ...]:
    """Those of the norm, and those that `excite` takes, in its order."""
    return norm.weight, norm.bias, se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias


def excite(
        squeeze: Tensor,
        params: Sequence[Tensor],
        scales: tuple[float, float],
        keep: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the norm's output is multiplied by, (N, C); and the hidden layer, (N, C/r), and sigmoid, (N, C), behind it.

    Args:
        squeeze: Mean of the norm's output over pixels, (N, C).
        params: Weight and bias of fc1 and of fc2.
        scales: `logit_scale` and `gate_scale` of the SE module.
        keep: What drop path multiplies each sample by, (N, 1).
    """
    weight1, bias1, weight2, bias2 = (p.to(squeeze.dtype) for p in params)
    hidden = torch.addmm(bias1, squeeze, weight1.flatten(1).mT).relu()
    sigmoid = torch.addmm(bias2, hidden, weight2.flatten(1).mT, beta=scales[0], alpha=scales[0]).sigmoid()
    return sigmoid * (scales[1] if keep is None else scales[1] * keep), hidden, sigmoid


def excite_backward(
        d_gate: Tensor,
        squeeze: Tensor,
        steps: tuple[Tensor, Tensor],
        params: Sequence[Tensor],
        scales: tuple[float, float],
        keep: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The gate, and the gradients of the squeeze and of `params`, from the gate's, (N, C).

    `steps` are the last two that `excite` returned. By hand: autograd of these few numbers was twice as slow, 1 % of a
    training step.
    """
    hidden, sigmoid = steps
    weight1, weight2 = (p.to(squeeze.dtype) for p in params[::2])
    gate_scale = scales[1] if keep is None else scales[1] * keep
    d_logit = torch.ops.aten.sigmoid_backward(d_gate, sigmoid) * (gate_scale * scales[0])
    d_hidden = torch.ops.aten.threshold_backward(d_logit @ weight2.flatten(1), hidden, 0)
    return (
        sigmoid * gate_scale, d_hidden @ weight1.flatten(1),
        _like(weight1, d_hidden.mT @ squeeze), d_hidden.sum(0), _like(weight2, d_logit.mT @ hidden), d_logit.sum(0))


def _like(weight: Tensor, matrix: Tensor) -> Tensor:
    """The matrix in the shape of a pointwise weight, and in its strides, since DDP warns of others."""
    return matrix.as_strided(weight.shape, weight.stride()) if weight.is_contiguous() else matrix.view_as(weight)


def statistics(z: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pivot, (C,); z's mean less that by channel and sample, (N, C), and by channel, (C,); 1 / std, (C,).

    The sums of z and of its square are one pass, but the variance, their difference, cancels where the mean is large.
    So a constant is taken off first, the mean over the pixels' first row, which is at most sqrt(H) standard deviations
    off the mean. The norm's running statistics are updated.
    """
    pivot = z[:, :, 0].to(torch.promote_types(z.dtype, torch.float32)).mean((0, 2)).detach()
    y = z - pivot[:, None, None]
    means = y.mean((2, 3))
    mean, count = means.mean(0), z.numel() // z.shape[1]
    var = y.square().mean((2, 3)).mean(0) - mean.square()
    with torch.no_grad():
        update_running_(norm, pivot + mean, var, count)
    return pivot, means, mean, (var + norm.eps).rsqrt()


def traced_norm_relu(z: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """`relu(norm(z))`, norm in training mode, in operators that a compiler can fuse; not saved but made again."""
    with torch.autocast(z.device.type, enabled=False):
        pivot, _, mean, invstd = statistics(z, norm)
        scale = norm.weight * invstd
        return checkpoint(
            affine_relu, z, pivot, scale, norm.bias - scale * mean, use_reentrant=False, preserve_rng_state=False)


def traced_norm_se_add_relu(
        z: Tensor,
        shortcut: Tensor,
        norm: nn.BatchNorm2d,
        se: SEModule,
        keep: Tensor | None = None,
) -> Tensor:
    """`relu(keep * se(norm(z)) + shortcut)`, norm in training mode, in operators that a compiler can fuse."""
    with torch.autocast(z.device.type, enabled=False):
        pivot, means, mean, invstd = statistics(z, norm)
        gamma, beta, *params = parameters(norm, se)
        squeeze = torch.addcmul(beta, gamma, (means - mean) * invstd)
        gate, *_ = excite(squeeze, params, (se.logit_scale, se.gate_scale), keep)
        scale = gate * norm.weight * invstd
        return affine_relu(z, pivot, scale, gate * norm.bias - scale * mean, shortcut)


def affine_relu(z: Tensor, pivot: Tensor, scale: Tensor, shift: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """`relu(scale * (z - pivot) + shift + shortcut)`; scale and shift by channel, (C,), or by sample too, (N, C)."""
    x = (z - pivot[:, None, None]) * scale[..., None, None] + shift[..., None, None]
    return (x if shortcut is None else x + shortcut).to(z.dtype).relu()  # the backward reads the last
