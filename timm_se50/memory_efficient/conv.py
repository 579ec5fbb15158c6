"""The second memory-efficient form: the 1x1 convolution before the norm is in the function as well, and its output is
never made.

A 1x1 convolution commutes with the mean, and the variance of each of its outputs is a quadratic form in the Gram matrix
of its input h. So the norm's statistics and the squeeze are known before the convolution runs; norm and gate go into
its weight, one for each sample, and all is one matrix product onto the shortcut.

The input is centred by its channel mean first: mean of squares minus square of mean would cancel where the mean is
large. A row of ones below it carries the constant of the affine map, and brings the sums over pixels with each product.
"""
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..squeeze_excite import SEModule
from .gate import excite, excite_backward, refuse_unknown_backward

__all__ = ['conv_norm', 'conv_norm_se_add_relu']


def conv_norm_se_add_relu(
        h: Tensor,
        shortcut: Tensor,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        se: SEModule,
        keep: Tensor | None = None,
) -> Tensor:
    """`relu(keep * se(norm(conv(h))) + shortcut)`, norm in training mode; saves h and the output.

    Args:
        h: Input of conv, (N, K, H, W).
        shortcut: (N, C, H, W).
        conv: A 1x1 convolution of stride 1, without bias.
        norm: The norm after it.
        se: The SE module after that.
        keep: What drop path multiplies each sample by, (N, 1).
    """
    return _ConvNormSEAddReLU.apply(
        h, shortcut, conv.weight, norm.weight, norm.bias, se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias, norm,
        keep, (se.logit_scale, se.gate_scale))


def conv_norm(h: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """`norm(conv(h))`, norm in training mode; saves h. Arguments as above."""
    return _ConvNorm.apply(h, conv.weight, norm.weight, norm.bias, norm)


class _ConvNormSEAddReLU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, h, shortcut, weight, gamma, beta, weight1, bias1, weight2, bias2, norm, keep, scales):
        ctx.scales = scales
        with torch.autocast(h.device.type, enabled=False):
            x, stats = _statistics(h, weight, norm)
            mean_x = (stats.sums / h[0, 0].numel()) @ weight.flatten(1).to(x.dtype).mT * stats.invstd
            hidden, gate = excite(gamma * mean_x + beta, weight1, bias1, weight2, bias2, scales)
            factor = gate if keep is None else gate * keep
            affine = factor[..., None] * _affine(weight, gamma, beta, stats)
            out = _bmm(affine.to(h.dtype), x.to(h.dtype), h, plus=shortcut).relu_()
        ctx.save_for_backward(
            h, out, weight, gamma, beta, weight1, weight2, *stats, mean_x, hidden, gate, keep)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        h, out, weight, gamma, beta, weight1, weight2, *stats, mean_x, hidden, gate, keep = ctx.saved_tensors
        stats = _Statistics(*stats)
        with torch.autocast(h.device.type, enabled=False):
            d_shortcut = torch.ops.aten.threshold_backward(d_out, out, 0)
            x, products, sum_gx = _products(d_shortcut, h, weight, stats)
            a, b, k, params = excite_backward(
                products[:, -1], sum_gx, mean_x, hidden, gate, keep, stats.invstd, (gamma, beta), (weight1, weight2),
                h[0, 0].numel(), ctx.scales)
            d_h, d_weight = _conv_backward(
                d_shortcut, h, x, products, weight, stats, a, b, k, (ctx.needs_input_grad[0], ctx.needs_input_grad[2]))
        return d_h, d_shortcut, d_weight, *params, None, None, None


class _ConvNorm(torch.autograd.Function):

    @staticmethod
    def forward(ctx, h, weight, gamma, beta, norm):
        with torch.autocast(h.device.type, enabled=False):
            x, stats = _statistics(h, weight, norm)
            affine = _affine(weight, gamma, beta, stats).to(h.dtype).expand(len(h), -1, -1)
            out = _bmm(affine, x.to(h.dtype), h)
        ctx.save_for_backward(h, weight, gamma, *stats)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        h, weight, gamma, *stats = ctx.saved_tensors
        stats = _Statistics(*stats)
        with torch.autocast(h.device.type, enabled=False):
            x, products, sum_gx = _products(d_out, h, weight, stats)
            d_gamma, d_beta = sum_gx.sum(0), products[:, -1].sum(0)
            count = h.numel() // h.shape[1]
            a = gamma * stats.invstd
            b, k = a * d_beta / -count, a * stats.invstd * d_gamma / -count
            a, b = (t.expand(len(h), -1) for t in (a, b))
            d_h, d_weight = _conv_backward(
                d_out, h, x, products, weight, stats, a, b, k, ctx.needs_input_grad[:2])
        return d_h, d_weight, d_gamma, d_beta, None


class _Statistics(NamedTuple):
    mean_h: Tensor  # mean of h, (K,)
    gram: Tensor  # of h less its mean, summed over samples and pixels, (K, K), of twice the precision
    sums: Tensor  # of h less its mean, over pixels, (N, K)
    invstd: Tensor  # what the norm multiplies by, (C,)


def _statistics(h: Tensor, weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, _Statistics]:
    """Centred h and the statistics of the norm after the convolution; its running ones are updated."""
    dtype = torch.promote_types(h.dtype, torch.float32)
    wide = torch.promote_types(h.dtype, torch.float32 if h.dtype.itemsize < 4 else torch.float64)
    w = weight.flatten(1).to(wide)
    count = h.numel() // h.shape[1]
    means = h.mean((2, 3), dtype=wide)
    mean = means.mean(0)
    x = _centred(h, mean.to(dtype))
    # The weights may cancel what the channels of h have in common, and the quadratic form squares the error that this
    # leaves, so twice the digits are needed (float32 was off by up to 100,000 times what BatchNorm is off).
    x_wide = x[:, :-1].to(wide)
    gram = torch.bmm(x_wide, x_wide.mT).sum(0)
    var = ((w @ gram) * w).sum(1).clamp_(min=0) / count
    for name, value in (('running_mean', w @ mean), ('running_var', var * (count / (count - 1)))):
        running = getattr(norm, name)
        running.lerp_(value.to(running.dtype), norm.momentum)  # with the unbiased variance, as BatchNorm does
    cast(Tensor, norm.num_batches_tracked).add_(1)
    sums = (means - mean) * h[0, 0].numel()
    return x, _Statistics(mean.to(dtype), gram, sums.to(dtype), (var + norm.eps).rsqrt().to(dtype))


def _affine(weight: Tensor, gamma: Tensor, beta: Tensor, stats: _Statistics) -> Tensor:
    """Convolution and norm as one matrix, (C, K + 1)."""
    return torch.cat([weight.flatten(1) * (gamma * stats.invstd)[:, None], beta[:, None]], 1)


def _products(g: Tensor, h: Tensor, weight: Tensor, stats: _Statistics) -> tuple[Tensor, Tensor, Tensor]:
    """Centred h again, its products with g, (N, K + 1, C), the last row of which holds the sums of g over pixels,
    and the sums of g times the normalized output, (N, C)."""
    x = _centred(h, stats.mean_h)
    products = torch.bmm(x.to(g.dtype), g.flatten(2).mT).to(x.dtype)
    return x, products, (products[:, :-1] * weight.flatten(1).mT).sum(1) * stats.invstd


def _conv_backward(
        g: Tensor,
        h: Tensor,
        x: Tensor,
        products: Tensor,
        weight: Tensor,
        stats: _Statistics,
        a: Tensor,
        b: Tensor,
        k: Tensor,
        needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of h and the weight, from a * g + b + k * (z - mean), that of the convolution's output z."""
    w = weight.flatten(1).to(x.dtype)
    d_h = d_weight = None
    if needed[1]:
        d_weight = torch.addmm((products[:, :-1] * a[:, None]).sum(0).mT, b.mT, stats.sums)
        d_weight += k[:, None] * (w.to(stats.gram.dtype) @ stats.gram).to(w.dtype)
        d_weight = d_weight[..., None, None]
    if needed[0]:
        affine = torch.cat([((w.mT * k) @ w).expand(len(h), -1, -1), (b @ w)[..., None]], 2)
        d_h = _bmm((w.mT * a[:, None]).to(h.dtype), g.flatten(2), h)
        d_h = _bmm(affine.to(h.dtype), x.to(h.dtype), h, plus=d_h)
    return d_h, d_weight


def _centred(h: Tensor, mean: Tensor) -> Tensor:
    """h less its channel mean, with a row of ones below: (N, K + 1, P), in the dtype of `mean`, in the layout of h."""
    k = h.shape[1]
    x = _empty(h, k + 1, mean.dtype)
    torch.sub(h, mean[:, None, None], out=x[:, :k])
    x[:, k] = 1
    return x.flatten(2)


def _bmm(a: Tensor, b: Tensor, like: Tensor, plus: Tensor | None = None) -> Tensor:
    """a @ b, (N, I, J) @ (N, J, P), as maps of the size and layout of `like`: (N, I, H, W), and no view."""
    out = _empty(like, a.shape[1], a.dtype)
    flat, c = out.flatten(2), None if plus is None else plus.flatten(2)
    if _is_channels_last(like):
        a, b, flat, c = b.mT, a.mT, flat.mT, None if c is None else c.mT
    if c is None:
        torch.bmm(a, b, out=flat)
    else:
        torch.baddbmm(c, a, b, out=flat)
    return out


def _empty(like: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Maps of the size and layout of others, with so many channels."""
    layout = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    return torch.empty(
        (len(like), channels, *like.shape[2:]), dtype=dtype, device=like.device, memory_format=layout)


def _is_channels_last(h: Tensor) -> bool:
    return h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()
