"""The first memory-efficient form: bn3, SE, the addition and ReLU as one function of conv3's output."""
import torch
from torch import Tensor, nn

from .memory_efficient_gate import excite, excite_backward, refuse_second_derivative
from .squeeze_excite import SEModule

__all__ = ['norm_se_add_relu']


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
        z, shortcut, norm.weight, norm.bias, se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias, norm, keep)


class _NormSEAddReLU(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, shortcut, gamma, beta, weight1, bias1, weight2, bias2, norm, keep):
        with torch.autocast(z.device.type, enabled=False):
            out, mean, invstd = torch.native_batch_norm(
                z, gamma, beta, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps)
            norm.num_batches_tracked.add_(1)
            mean_x = (z.mean((2, 3), dtype=mean.dtype) - mean) * invstd
            hidden, gate = excite(gamma * mean_x + beta, weight1, bias1, weight2, bias2)
            factor = gate if keep is None else gate * keep
            torch.addcmul(shortcut, out, factor.to(out.dtype)[..., None, None], out=out)
            out.relu_()
        ctx.save_for_backward(z, out, gamma, beta, weight1, weight2, mean, invstd, mean_x, hidden, gate, keep)
        return out

    @staticmethod
    def backward(ctx, d_out):
        refuse_second_derivative()
        z, out, gamma, beta, weight1, weight2, mean, invstd, mean_x, hidden, gate, keep = ctx.saved_tensors
        with torch.autocast(z.device.type, enabled=False):
            g = torch.ops.aten.threshold_backward(d_out, out, 0)
            sum_g = g.sum((2, 3), dtype=mean.dtype)
            sum_gx = ((g * z).sum((2, 3), dtype=mean.dtype) - mean * sum_g) * invstd
            grads = excite_backward(
                sum_g, sum_gx, mean_x, hidden, gate, keep, invstd, (gamma, beta), (weight1, weight2), z[0, 0].numel())
            a, b, k = ((t.to(z.dtype)[..., None, None]) for t in (grads.a, grads.b - grads.k * mean, grads.k))
            d_z = torch.addcmul(b, z, k).addcmul_(g, a) if ctx.needs_input_grad[0] else None
        return d_z, g, *grads.params, None, None
