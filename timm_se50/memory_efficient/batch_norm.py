"""BatchNorm in training mode, whole and in its two halves, statistics and a scale and shift of each channel.

PyTorch's own, and on a CPU what is faster there: where a channel's pixels lie one behind the other, BatchNorm adds them
one at a time, in double precision, which took it six times as long as sums of several at once.
"""
from itertools import repeat
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

__all__ = ['batch_norm', 'by_sample', 'is_by_sample', 'normalized', 'sample_means', 'statistics', 'update_running_']

# Up to this ratio of a channel's squared mean to its variance, sums that cost 3 bits are near enough
MAX_RATIO = 9
# From as many numbers of one sample on a call for each sample costs less than it saves
MIN_NUMBERS = 2 ** 16


def batch_norm(z: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """The norm's output, and the mean and 1 / std that it was computed with."""
    if z.device.type == 'cpu' and _is_full(z) and z.is_contiguous():
        _, mean, invstd = statistics(z, norm)
        return normalized(z, mean, invstd, norm.weight, norm.bias), mean, invstd
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
    return torch.native_batch_norm(
        z, norm.weight, norm.bias, norm.running_mean, norm.running_var, True, cast(float, norm.momentum), norm.eps)


def normalized(z: Tensor, mean: Tensor, invstd: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The norm's output, `gamma * x^ + beta`, by channel, (C,); beta, or both, by sample too, (N, C)."""
    if beta.ndim == 1:
        return torch.native_batch_norm(z, gamma, beta, mean, invstd ** -2, False, 0.0, 0.0)[0]
    if z.is_contiguous() or not _is_full(z):
        return _normalized_by_sample(z, mean, invstd, gamma, beta)
    scale = gamma * invstd
    return torch.addcmul((beta - scale * mean)[..., None, None], z, scale[..., None, None])


def _normalized_by_sample(z: Tensor, mean: Tensor, invstd: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The same by BatchNorm's own loop, which computes in full precision, whatever the map has."""
    out, unused = torch.empty_like(z), mean.new_empty(0)
    for x, y, g, b, m, v in by_sample(z, out, gamma, beta, mean, invstd ** -2):
        torch.native_batch_norm(x, g, b, m, v, False, 0.0, 0.0, out=(y, unused, unused))
    return out


def is_by_sample(z: Tensor) -> bool:
    """Whether BatchNorm's own loops, a sample at a time, are the fastest: on a CPU, unless the calls cost more."""
    return z.device.type == 'cpu' and (z.is_contiguous() or z[0].numel() >= MIN_NUMBERS)


def by_sample(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """What BatchNorm takes to have numbers of each sample's own: one map after another, (1, C, H, W), each with its
    row of what is (N, C) and with what is (C,); and where the samples' channels lie one behind the other, all as one
    with N * C channels."""
    n, c = tensors[0].shape[:2]
    if all(t.is_contiguous() for t in tensors if t.ndim == 4):
        return [tuple(
            t.view(1, n * c, *t.shape[2:]) if t.ndim == 4 else t.expand(n, c).reshape(-1) for t in tensors)]
    return list(zip(*(
        t.split(1) if t.ndim == 4 else t.unbind() if t.ndim == 2 else repeat(t, n) for t in tensors), strict=True))


def sample_means(z: Tensor, mean: Tensor, invstd: Tensor) -> Tensor:
    """Mean by channel and sample, (N, C), of a map whose mean and 1 / std by channel are known."""
    if _is_full(z) or not z.is_cpu:
        return z.mean((2, 3), dtype=mean.dtype)
    # Pooling takes a fourth of the time of a mean, and rounds: each row by itself, so that their mean has more digits
    means = avg_pool2d(z, (1, z.shape[3])).mean((2, 3), dtype=mean.dtype)
    lost = (mean * invstd).square() > MAX_RATIO
    if lost.any():
        means[:, lost] = z[:, lost].mean((2, 3), dtype=mean.dtype)
    return means


def statistics(z: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """Of a contiguous map: mean by channel and sample, (N, C); mean and 1 / std by channel.

    The norm's running statistics are updated.
    """
    # for running statistics; without, the results have no more digits than the map
    unused = torch.zeros_like(cast(Tensor, norm.running_mean))
    means = z.mean((2, 3), dtype=unused.dtype)
    mean, var = _moments(z, means, unused)
    update_running_(norm, mean, var, z.numel() // len(mean))
    return means, mean, (var + norm.eps).rsqrt()


def update_running_(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Have the norm's running statistics follow those of a batch with so many numbers in a channel."""
    for running, now in ((norm.running_mean, mean), (norm.running_var, var * (count / (count - 1)))):
        running.lerp_(now.to(running.dtype), norm.momentum)  # type: ignore[union-attr, arg-type]
    norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]


def _moments(z: Tensor, means: Tensor, unused: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of a contiguous map, from its mean by channel and sample."""
    rows, pixels = torch.linalg.vector_norm(z, dim=(2, 3), dtype=means.dtype).double(), z[0, 0].numel()
    mean = means.double().mean(0)
    var = rows.square().mean(0) / pixels - mean.square()
    lost = mean.square() > MAX_RATIO * var
    if lost.any():
        (which,) = lost.nonzero(as_tuple=True)
        part = torch.batch_norm_update_stats(z.index_select(1, which), unused[which], unused[which], 0.0)
        mean[which], var[which] = (t.double() for t in part)
    return mean.to(means.dtype), var.to(means.dtype)


def _is_full(z: Tensor) -> bool:
    """Whether the map is in full precision."""
    return z.dtype.itemsize >= 4
