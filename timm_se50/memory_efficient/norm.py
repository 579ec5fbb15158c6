"""Memory-efficient functions, for eager PyTorch: norm and what follows it, with a backward written by hand."""
import torch
from torch import Tensor, nn

from ..squeeze_excite import SEModule
from .arithmetic import excite, excite_backward, parameters
from .batch_norm import batch_norm, by_sample, is_by_sample, normalized, sample_means, statistics
from .convolution import conv_args, convolve, convolve_backward
from .refusal import refuse_unknown_backward

__all__ = ['norm_relu_conv', 'norm_relu_conv_norm_se_add_relu', 'norm_se_add_relu']


def norm_relu_conv(z: Tensor, norm: nn.BatchNorm2d, conv: nn.Conv2d) -> Tensor:
    """`conv(relu(norm(z)))`, norm in training mode, conv without bias; saves z, and makes conv's input again."""
    return _NormReLUConv.apply(z, norm.weight, norm.bias, conv.weight, norm, conv)


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


def norm_relu_conv_norm_se_add_relu(
        z: Tensor,
        shortcut: Tensor,
        norm: nn.BatchNorm2d,
        conv: nn.Conv2d,
        norm2: nn.BatchNorm2d,
        se: SEModule,
        keep: Tensor | None = None,
) -> Tensor:
    """The first of these and then the second, and conv's output is not saved but made again; saves z and the output."""
    return _NormReLUConvNormSEAddReLU.apply(
        z, shortcut, norm.weight, norm.bias, conv.weight, *parameters(norm2, se), norm, conv, norm2,
        (se.logit_scale, se.gate_scale), keep)


class _NormReLUConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, gamma, beta, weight, norm, conv):
        ctx.conv_args = conv_args(conv)
        h, mean, invstd = batch_norm(z, norm)
        out = convolve(h.relu_(), weight, ctx.conv_args)
        ctx.save_for_backward(z, gamma, beta, weight, mean, invstd)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        z, gamma, beta, weight, mean, invstd = ctx.saved_tensors
        h = normalized(z, mean, invstd, gamma, beta).relu_()
        grads = _norm_relu_conv_backward(
            d_out, h, z, gamma, weight, mean, invstd, ctx.conv_args, ctx.needs_input_grad[:4])
        return *grads, None, None


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


class _NormReLUConvNormSEAddReLU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, shortcut, gamma, beta, weight, *args):
        params, (norm, conv, norm2, *ctx.args) = args[:6], args[6:]
        ctx.conv_args = conv_args(conv)
        with torch.autocast(z.device.type, enabled=False):
            h, mean, invstd = batch_norm(z, norm)
            y = convolve(h.relu_(), weight, ctx.conv_args)
            out, *stats = _norm_se_add_relu(y, shortcut, norm2, params, ctx.args)
        ctx.save_for_backward(z, gamma, beta, weight, mean, invstd, out, *params, *stats)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        z, gamma, beta, weight, mean, invstd, out, *saved = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            h = normalized(z, mean, invstd, gamma, beta).relu_()
            y = convolve(h, weight, ctx.conv_args)
            d_y, d_shortcut, *d_params = _norm_se_add_relu_backward(d_out, y, out, saved[:6], saved[6:], ctx.args)
            needs = ctx.needs_input_grad
            d_z, *grads = _norm_relu_conv_backward(
                d_y, h, z, gamma, weight, mean, invstd, ctx.conv_args, (needs[0], *needs[2:5]))
        return d_z, d_shortcut, *grads, *d_params, None, None, None, None, None


def _norm_relu_conv_backward(d_out, h, z, gamma, weight, mean, invstd, args, needs) -> tuple[Tensor | None, ...]:
    """Gradients of z, gamma, beta and weight; h is the convolution's input."""
    needs_h = any(needs[:3])
    g, d_weight = convolve_backward(d_out, h, weight, args, (needs_h, needs[3]))
    if not needs_h:
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
    slope, offset = (d_gamma * part).expand_as(gate), (d_beta - len(z) * d_squeeze) * part
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
