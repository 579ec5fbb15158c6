"""BatchNorm in training mode, whole and in its two halves, statistics and a scale and shift of each channel.

PyTorch's own, and on a CPU what is faster there: where a channel's pixels lie one behind the other, BatchNorm adds them
one at a time, in double precision, which took it six times as long as sums of several at once.
"""
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ['affine', 'batch_norm', 'is_full_cpu', 'normalized', 'statistics', 'update_running_']

# Up to this ratio of a channel's squared mean to its variance, the latter is a difference of sums, which costs 3 bits
MAX_RATIO = 4


def batch_norm(z: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """The norm's output, and the mean and 1 / std that it was computed with."""
    if is_full_cpu(z) and z.is_contiguous():
        _, mean, invstd = statistics(z, norm)
        return normalized(z, mean, invstd, norm.weight, norm.bias), mean, invstd
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return torch.native_batch_norm(
        z, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, cast(float, norm.momentum), norm.eps)


def normalized(z: Tensor, mean: Tensor, invstd: Tensor, gamma=None, beta=None) -> Tensor:
    """The norm's output, by what it is computed with; x^ without gamma and beta."""
    return torch.native_batch_norm(z, gamma, beta, mean, invstd ** -2, False, 0.0, 0.0)[0]


def is_full_cpu(z: Tensor) -> bool:
    """Whether the map is on a CPU, in full precision: `statistics` is for no other."""
    return z.device.type == 'cpu' and z.dtype.itemsize >= 4


def statistics(z: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """Mean by channel and sample, (N, C); mean and 1 / std by channel. The norm's running statistics are updated."""
    means = z.mean((2, 3))
    if z.is_contiguous():
        mean, var = _moments(z, means)
        update_running_(norm, mean, var, z.numel() // len(mean))
    else:
        norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        mean, var = torch.batch_norm_update_stats(
            z, norm.running_mean, norm.running_var, cast(float, norm.momentum))
    return means, mean, (var + norm.eps).rsqrt()


def update_running_(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Have the norm's running statistics follow those of a batch with so many numbers in a channel."""
    for running, now in ((norm.running_mean, mean), (norm.running_var, var * (count / (count - 1)))):
        running.lerp_(now.to(running.dtype), norm.momentum)  # type: ignore[union-attr, arg-type]
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]


def _moments(z: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of a contiguous map, from its mean by channel and sample."""
    rows, pixels = torch.linalg.vector_norm(z, dim=(2, 3)).double(), z[0, 0].numel()
    mean = means.double().mean(0)
    var = rows.square().mean(0) / pixels - mean.square()
    lost = mean.square() > MAX_RATIO * var
    if lost.any():
        (which,) = lost.nonzero(as_tuple=True)
        part = torch.batch_norm_update_stats(z.index_select(1, which), None, None, 0.0)
        mean[which], var[which] = (t.double() for t in part)
    return mean.to(z.dtype), var.to(z.dtype)


def affine(z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`scale * z + shift`, one scale and one shift for each channel of each sample, (N, C)."""
    if not (is_full_cpu(z) and z.is_contiguous()):
        return torch.addcmul(shift[..., None, None], z, scale[..., None, None])
    # as BatchNorm of one sample of so many channels; addcmul broadcasts these more slowly
    out, rows = torch.empty_like(z), (1, -1, *z.shape[2:])
    zero, one = z.new_zeros(scale.numel()), z.new_ones(scale.numel())
    torch.ops.aten.native_batch_norm.out(
        z.view(rows), scale.flatten(), shift.flatten(), zero, one, False, 0.0, 0.0,
        out=out.view(rows), save_mean=z.new_empty(0), save_invstd=z.new_empty(0))
    return out
