"""Memory-efficient functions of a convolution's output: norm and what follows it, up to the next such output."""
import torch
from torch import Tensor, nn

from ..squeeze_excite import SEModule
from .gate import excite, excite_backward, refuse_unknown_backward

__all__ = ['norm_relu_conv', 'norm_se_add_relu']


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
        z, shortcut, norm.weight, norm.bias, se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias, norm, keep,
        (se.logit_scale, se.gate_scale))


class _NormReLUConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, gamma, beta, weight, norm, conv):
        ctx.conv_args = conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups
        with torch.autocast(z.device.type, enabled=False):
            h, mean, invstd = torch.native_batch_norm(
                z, gamma, beta, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
            norm.num_batches_tracked.add_(1)
            out = torch.convolution(h.relu_(), weight.to(h.dtype), None, *ctx.conv_args)
        ctx.save_for_backward(z, gamma, beta, weight, mean, invstd)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        z, gamma, beta, weight, mean, invstd = ctx.saved_tensors
        needs_z, needs_gamma, needs_beta, needs_weight = ctx.needs_input_grad[:4]
        d_z = d_gamma = d_beta = None
        with torch.autocast(z.device.type, enabled=False):
            h = _normalized(z, mean, invstd, gamma, beta).relu_()
            needs_h = needs_z or needs_gamma or needs_beta
            g, d_weight, _ = torch.ops.aten.convolution_backward(
                d_out, h, weight.to(h.dtype), None, *ctx.conv_args, (needs_h, needs_weight, False))
            if needs_h:
                torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=g)
                d_z, d_gamma, d_beta = torch.ops.aten.native_batch_norm_backward(
                    g, z, gamma, None, None, mean, invstd, True, 0.0, (needs_z, needs_gamma, needs_beta))
        return d_z, d_gamma, d_beta, d_weight, None, None


class _NormSEAddReLU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, shortcut, gamma, beta, weight1, bias1, weight2, bias2, norm, keep, scales):
        ctx.scales = scales
        with torch.autocast(z.device.type, enabled=False):
            out, mean, invstd = torch.native_batch_norm(
                z, gamma, beta, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
            norm.num_batches_tracked.add_(1)
            mean_x = (z.mean((2, 3), dtype=mean.dtype) - mean) * invstd
            hidden, gate = excite(gamma * mean_x + beta, weight1, bias1, weight2, bias2, scales)
            factor = gate if keep is None else gate * keep
            torch.addcmul(shortcut, out, factor.to(out.dtype)[..., None, None], out=out)
            out.relu_()
        ctx.save_for_backward(z, out, gamma, beta, weight1, weight2, mean, invstd, mean_x, hidden, gate, keep)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        z, out, gamma, beta, weight1, weight2, mean, invstd, mean_x, hidden, gate, keep = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            g = torch.ops.aten.threshold_backward(d_out, out, 0)
            sum_g = g.sum((2, 3), dtype=mean.dtype)
            x, shift, scale = z, mean, invstd
            if z.dtype.itemsize < 4:  # its few digits and range are for the normalized numbers
                x, shift, scale = _normalized(z, mean, invstd), torch.zeros_like(mean), torch.ones_like(invstd)
            d_z = g * x
            sum_gx = (d_z.sum((2, 3), dtype=mean.dtype) - shift * sum_g) * scale
            grads = excite_backward(
                sum_g, sum_gx, mean_x, hidden, gate, keep, invstd, (gamma, beta), (weight1, weight2), z[0, 0].numel(),
                ctx.scales)
            k = grads.k * scale / invstd
            a, b, k = ((t.to(z.dtype)[..., None, None]) for t in (grads.a, grads.b - k * shift, k))
            torch.addcmul(b, x, k, out=d_z).addcmul_(g, a)
        return d_z, g, *grads.params, None, None, None


def _normalized(
        z: Tensor,
        mean: Tensor,
        invstd: Tensor,
        gamma: Tensor | None = None,
        beta: Tensor | None = None,
) -> Tensor:
    """The norm's output again, by what it was computed with."""
    return torch.native_batch_norm(z, gamma, beta, mean, invstd ** -2, False, 0.0, 0.0)[0]
