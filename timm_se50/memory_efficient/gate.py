"""The algebra that both memory-efficient forms share: the gate of an SE module and its gradient, by (sample, channel).

With x^ the normalized output of conv3, y = gamma * x^ + beta, q the gate and g the gradient that passes the last ReLU,
all that the gradients of bn3 and SE need of the large maps is two sums over the P pixels of each channel of each
sample: that of g and that of g * x^.
"""
from typing import NamedTuple

import torch
from torch import Tensor

from ..torch_internals import is_batched

__all__ = ['Gradients', 'excite', 'excite_backward', 'refuse_unknown_backward']


class Gradients(NamedTuple):
    """Gradients of bn3 and SE; that of conv3's output z is a * g + b + k * (z - mean)."""
    a: Tensor  # (N, C)
    b: Tensor  # (N, C)
    k: Tensor  # (C,)
    params: tuple[Tensor, ...]  # those of bn3.weight, bn3.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias


def excite(
        squeezed: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        scales: tuple[float, float],
) -> tuple[Tensor, Tensor]:
    """The hidden layer (N, H) and the gate (N, C) of the squeezed input (N, C); weights as SEModule has them.

    `scales` are its `logit_scale` and `gate_scale`.
    """
    logit_scale, gate_scale = scales
    weight1, bias1, weight2, bias2 = (p.to(squeezed.dtype) for p in (weight1, bias1, weight2, bias2))
    hidden = torch.addmm(bias1, squeezed, weight1.flatten(1).mT).relu_()
    logit = torch.addmm(bias2, hidden, weight2.flatten(1).mT)
    return hidden, logit.mul_(logit_scale).sigmoid_().mul_(gate_scale)


def excite_backward(
        sum_g: Tensor,
        sum_gx: Tensor,
        mean_x: Tensor,
        hidden: Tensor,
        gate: Tensor,
        keep: Tensor | None,
        invstd: Tensor,
        norm_params: tuple[Tensor, Tensor],
        fc_weights: tuple[Tensor, Tensor],
        pixels: int,
        scales: tuple[float, float],
) -> Gradients:
    """The gradients, from sums over pixels.

    Args:
        sum_g: Sum of g over the pixels, (N, C).
        sum_gx: Sum of g * x^, (N, C).
        mean_x: Mean of x^, (N, C).
        hidden: As `excite` gave it.
        gate: Likewise.
        keep: What drop path multiplies each sample by, (N, 1).
        invstd: What the norm multiplies by, (C,).
        norm_params: bn3.weight and bn3.bias.
        fc_weights: fc1.weight and fc2.weight.
        pixels: P.
        scales: As for `excite`.
    """
    dtype = sum_g.dtype
    gamma, beta = (p.to(dtype) for p in norm_params)
    weight1, weight2 = (w.flatten(1).to(dtype) for w in fc_weights)
    count = len(sum_g) * pixels

    if keep is not None:
        sum_g, sum_gx = sum_g * keep, sum_gx * keep
    logit_scale, gate_scale = scales
    d_logit = (gamma * sum_gx + beta * sum_g) * gate * (1 - gate / gate_scale) * logit_scale
    d_hidden = (d_logit @ weight2) * (hidden > 0)
    d_squeezed = d_hidden @ weight1

    d_gamma = (gate * sum_gx + d_squeezed * mean_x).sum(0)
    d_beta = (gate * sum_g + d_squeezed).sum(0)
    scale = gamma * invstd
    return Gradients(
        a=scale * gate if keep is None else scale * gate * keep,
        b=scale * (d_squeezed / pixels - d_beta / count),
        k=scale * invstd * d_gamma / -count,
        params=(
            d_gamma,
            d_beta,
            (d_hidden.mT @ (gamma * mean_x + beta))[..., None, None],
            d_hidden.sum(0),
            (d_logit.mT @ hidden)[..., None, None],
            d_logit.sum(0),
        ))


def refuse_unknown_backward(d_out: Tensor) -> None:
    """Raise a RuntimeError in a backward that is asked for more than gradients: these are written by hand."""
    for asked, what in (
        (torch.is_grad_enabled(), 'second derivative, and backward was called with create_graph=True'),
        (is_batched(d_out), 'rule for is_grads_batched=True (or vectorize=True)'),
    ):
        if asked:
            raise RuntimeError(
                f'memory_efficient=True has no {what}. '
                'Call timm_se50.set_memory_efficient(model, False) before the forward pass.')
