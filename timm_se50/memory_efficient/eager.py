"""Memory-efficient functions, for eager PyTorch: a block, and its end alone, with a backward written by hand."""
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..squeeze_excite import SEModule
from .arithmetic import excite, excite_backward, parameters
from .batch_norm import batch_norm, by_sample, is_by_sample, normalized, sample_means, statistics
from .convolution import conv_args, convolve, convolve_backward
from .refusal import refuse_unknown_backward

__all__ = ['bottleneck', 'norm_se_add_relu']


def bottleneck(
        x: Tensor,
        shortcut: Tensor,
        convs: Sequence[nn.Conv2d],
        norms: Sequence[nn.BatchNorm2d],
        se: SEModule,
        keep: Tensor | None,
        is_remade: bool,
) -> Tensor:
    """A block: conv, norm and ReLU twice, conv, then `norm_se_add_relu`.

    Saves x, the convolutions' outputs, of the third only where it is not to be made again, and its own.
    """
    conv1, conv2, conv3 = convs
    norm1, norm2, norm3 = norms
    return _Bottleneck.apply(
        x, shortcut, conv1.weight, norm1.weight, norm1.bias, conv2.weight, norm2.weight, norm2.bias, conv3.weight,
        *parameters(norm3, se), norms, [conv_args(c) for c in convs], (se.logit_scale, se.gate_scale), keep, is_remade)


def norm_se_add_relu(
        z: Tensor,
        shortcut: Tensor,
        norm: nn.BatchNorm2d,
        se: SEModule,
        keep: Tensor | None = None,
) -> Tensor:
    """`relu(keep * se(norm(z)) + shortcut)`, norm in training mode; saves z and the output, (N, C, H, W) each.

    `keep` is what drop path multiplies each sample by, (N, 1).
    """
    return _NormSEAddReLU.apply(
        z, shortcut, *parameters(norm, se), norm, (se.logit_scale, se.gate_scale), keep)


class _Bottleneck(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, shortcut, *args):
        params, ((norm1, norm2, norm3), ctx.conv_args, *ctx.args, is_remade) = args[:13], args[13:]
        (weight1, _, _, weight2, _, _, weight3, *end), (args1, args2, args3) = params, ctx.conv_args
        with torch.autocast(x.device.type, enabled=False):
            z1 = convolve(x, weight1, args1)
            h, *stats1 = batch_norm(z1, norm1)
            z2 = convolve(h.relu_(), weight2, args2)
            h, *stats2 = batch_norm(z2, norm2)
            z3 = convolve(h.relu_(), weight3, args3)
            out, *stats = _norm_se_add_relu(z3, shortcut, norm3, end, ctx.args)
        ctx.save_for_backward(x, z1, z2, None if is_remade else z3, out, *params, *stats1, *stats2, *stats)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        x, z1, z2, z3, out, *saved = ctx.saved_tensors
        weight1, gamma1, beta1, weight2, gamma2, beta2, weight3, *end = saved[:13]
        mean1, invstd1, mean2, invstd2, *stats = saved[13:]
        (args1, args2, args3), (for_x, _, *needs) = ctx.conv_args, ctx.needs_input_grad
        for_z1 = for_x or needs[0]
        for_z2 = for_z1 or any(needs[1:4])
        with torch.autocast(x.device.type, enabled=False):
            h = normalized(z2, mean2, invstd2, gamma2, beta2).relu_()
            if z3 is None:
                z3 = convolve(h, weight3, args3)
            d_z, d_shortcut, *d_end = _norm_se_add_relu_backward(d_out, z3, out, end, stats, ctx.args)
            del z3  # large, and where it was made again nobody else has it
            d_z, *d_params2 = _norm_relu_conv_backward(
                d_z, h, z2, gamma2, weight3, mean2, invstd2, args3, (for_z2, *needs[4:7]))
            h = normalized(z1, mean1, invstd1, gamma1, beta1).relu_()
            d_z, *d_params1 = _norm_relu_conv_backward(
                d_z, h, z1, gamma1, weight2, mean1, invstd1, args2, (for_z1, *needs[1:4]))
            d_x, d_weight1 = convolve_backward(d_z, x, weight1, args1, (for_x, needs[0]))
        return d_x, d_shortcut, d_weight1, *d_params1, *d_params2, *d_end, None, None, None, None, None


class _NormSEAddReLU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, shortcut, gamma, beta, weight1, bias1, weight2, bias2, norm, *ctx_args):
        params, ctx.args = (gamma, beta, weight1, bias1, weight2, bias2), ctx_args
        with torch.autocast(z.device.type, enabled=False):
            out, *stats = _norm_se_add_relu(z, shortcut, norm, params, ctx_args)
        ctx.save_for_backward(z, out, *params, *stats)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        z, out, *saved = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            grads = _norm_se_add_relu_backward(d_out, z, out, saved[:6], saved[6:], ctx.args)
        return *grads, None, None, None


def _norm_relu_conv_backward(d_out, h, z, gamma, weight, mean, invstd, args, needs) -> tuple[Tensor | None, ...]:
    """Gradients of z, gamma, beta and weight, where they are needed; h is the convolution's input."""
    for_h = any(needs[:3])
    g, d_weight = convolve_backward(d_out, h, weight, args, (for_h, needs[3]))
    if not for_h:
        return None, None, None, d_weight
    torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
    return *torch.ops.aten.native_batch_norm_backward(
        g, z, gamma, None, None, mean, invstd, True, 0.0, needs[:3]), d_weight


def _norm_se_add_relu(z, shortcut, norm, params, args) -> tuple[Tensor, ...]:
    """The output, and what the backward needs beside it: mean and 1 / std of the norm, mean of x^, and SE's steps."""
    gamma, beta, *params = params
    one_pass = z.device.type == 'cpu' and z.is_contiguous()
    if one_pass:
        means, mean, invstd = statistics(z, norm)
    else:
        out, mean, invstd = batch_norm(z, norm)
        means = sample_means(z, mean, invstd)
    mean_x = (means - mean) * invstd
    gate, *steps = excite(torch.addcmul(beta, gamma, mean_x), params, *args)
    if one_pass:
        out = normalized(z, mean, invstd, gate * gamma, gate * beta).add_(shortcut)
    else:
        torch.addcmul(shortcut, out, gate.to(out.dtype)[..., None, None], out=out)
    return out.relu_(), mean, invstd, mean_x, *steps


def _norm_se_add_relu_backward(d_out, z, out, params, stats, args) -> tuple[Tensor, ...]:
    """Gradients of z, shortcut and `params`."""
    (gamma, beta, *params), (mean, invstd, mean_x, *steps) = params, stats
    squeeze, pixels = torch.addcmul(beta, gamma, mean_x), z[0, 0].numel()
    g = torch.ops.aten.threshold_backward(d_out, out, 0)
    if not is_by_sample(z):  # few numbers, or a GPU: the fewest operators
        y = normalized(z, mean, invstd, gamma, beta)
        d_gate = y.mul_(g).sum((2, 3), dtype=mean.dtype)
        gate, d_squeeze, *d_params = excite_backward(d_gate, squeeze, steps, params, *args)
        offset, scale = (t.to(z.dtype)[..., None, None] for t in (d_squeeze / pixels, gate))
        d_z, d_gamma, d_beta = torch.ops.aten.native_batch_norm_backward(
            torch.addcmul(offset, g, scale, out=y), z, gamma, None, None, mean, invstd, True, 0.0, (True, True, True))
        return d_z, g, d_gamma, d_beta, *d_params

    sum_g, sum_gx = _sums(g, z, mean, invstd)
    d_gate = torch.addcmul(gamma * sum_gx, beta, sum_g)
    gate, d_squeeze, *d_params = excite_backward(d_gate, squeeze, steps, params, *args)
    d_gamma = torch.addcmul(gate * sum_gx, d_squeeze, mean_x).sum(0)
    d_beta = torch.addcmul(d_squeeze, gate, sum_g).sum(0)
    # BatchNorm's backward of gamma * (gate * g + d_squeeze / pixels), the gradient of x^: its sum over the batch, and
    # that of its product with x^, are gamma times the gradients of beta and gamma
    factor = gamma * invstd
    part = factor / (len(z) * -pixels)
    slope, offset = d_gamma * part, d_beta.sub(d_squeeze, alpha=len(z)) * part
    scale = (gate * factor).to(z.dtype)
    d_z = normalized(z, mean, invstd, slope, offset).addcmul_(g, scale[..., None, None])
    return d_z, g, d_gamma, d_beta, *d_params


def _sums(g: Tensor, z: Tensor, mean: Tensor, invstd: Tensor) -> tuple[Tensor, Tensor]:
    """Of g, and of g * x^, over pixels, (N, C) each; a sample at a time BatchNorm's backward finds both in one pass."""
    parts = [
        torch.ops.aten.native_batch_norm_backward(g1, z1, None, None, None, *stats, True, 0.0, (False, True, True))
        for g1, z1, *stats in by_sample(g, z, mean, invstd)]
    _, sums_gx, sums_g = zip(*parts, strict=True)
    return torch.stack(sums_g).view(len(g), -1), torch.stack(sums_gx).view(len(g), -1)
