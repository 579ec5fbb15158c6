"""Convolutions without bias, which save their weight and not autocast's copy of it.

oneDNN puts a weight in an order of its own at every call, and its gradient back. Where there are few pixels that is a
third of the time and more, and a matrix product, which needs no such order, is faster, most for the weight's gradient.
"""
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .refusal import refuse_unknown_backward

__all__ = ['conv_args', 'convolution', 'convolve', 'convolve_backward']

# Pixels in the whole batch, for each of the output's channels, up to which matrix products are faster
MAX_PIXELS = 2
# On CPUs without, as measured, they are not
HAS_AVX512 = torch.backends.cpu.get_cpu_capability().startswith('AVX512')


def convolution(x: Tensor, module: nn.Conv2d) -> Tensor:
    """The module's output; saves x and the weight as it is."""
    return _Convolution.apply(x, module.weight, conv_args(module))


class _Convolution(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, args):
        ctx.args = args
        ctx.save_for_backward(x, weight)
        return convolve(x, weight, args)

    @staticmethod
    def backward(ctx, d_out):
        refuse_unknown_backward(d_out)
        return *convolve_backward(d_out, *ctx.saved_tensors, ctx.args, ctx.needs_input_grad[:2]), None


def conv_args(module: nn.Conv2d) -> tuple:
    """Those of PyTorch's operator, behind the bias."""
    return module.stride, module.padding, module.dilation, False, (0, 0), module.groups


def convolve(x: Tensor, weight: Tensor, args: tuple) -> Tensor:
    """The convolution, in x's precision."""
    weight = weight.to(x.dtype)
    if not _is_product(x, weight, args):
        return torch.convolution(x, weight, None, *args)
    return _times(_columns(x, weight, args), _matrix(weight).mT)


def convolve_backward(
        d_out: Tensor,
        x: Tensor,
        weight: Tensor,
        args: tuple,
        needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and weight, where they are needed, in x's precision."""
    if not any(needs):
        return None, None
    weight, backward = weight.to(x.dtype), torch.ops.aten.convolution_backward
    if not _is_product(x, weight, args):
        return backward(d_out, x, weight, None, *args, (*needs, False))[:2]
    rows, d_x, d_weight = d_out.permute(0, 2, 3, 1), None, None
    if needs[1]:
        d_matrix = rows.flatten(0, 2).mT @ _columns(x, weight, args).flatten(0, 2)
        d_weight = d_matrix.as_strided(weight.shape, weight.stride())
    if needs[0] and (weight.shape[2:], args[1]) != ((1, 1), (0, 0)):  # products would have to be added up, and rounded
        d_x = backward(d_out, x, weight, None, *args, (True, False, False))[0]
    elif needs[0]:
        d_x = d_read = _times(rows, _matrix(weight))
        if d_read.shape != x.shape:
            (down, right), d_x = args[0], torch.zeros_like(x)
            d_x[:, :, ::down, ::right] = d_read
    return d_x, d_weight


def _is_product(x: Tensor, weight: Tensor, args: tuple) -> bool:
    """Whether matrix products are faster, as measured: in bfloat16, on CPUs with AVX-512."""
    (outputs, inputs, *_), (down, right) = weight.shape, args[0]
    return (
        x.dtype == torch.bfloat16 and x.numel() <= MAX_PIXELS * outputs * inputs * down * right
        and args[2:] == ((1, 1), False, (0, 0), 1) and x.is_cpu and HAS_AVX512
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last))


def _matrix(weight: Tensor) -> Tensor:
    """The weight as a matrix, (outputs, kernel * channels)."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _columns(x: Tensor, weight: Tensor, args: tuple) -> Tensor:
    """What each pixel of the output is computed from, (N, H, W, kernel * channels)."""
    (down, right), (rows, columns), *_ = args
    x = x.permute(0, 2, 3, 1)
    if rows or columns:
        x = pad(x, (0, 0, columns, columns, rows, rows))
    if weight.shape[2:] == (1, 1):
        return x[:, ::down, ::right]
    x = x.unfold(1, weight.shape[2], down).unfold(2, weight.shape[3], right)
    return x.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _times(rows: Tensor, matrix: Tensor) -> Tensor:
    """A channels_last map, (N, C, H, W), of (N, H, W, K) and (K, C); no view, which could not be changed in place."""
    n, h, w, _ = rows.shape
    out = torch.empty(
        (n, matrix.shape[1], h, w), dtype=rows.dtype, device=rows.device, memory_format=torch.channels_last)
    torch.mm(rows.flatten(0, 2), matrix, out=out.permute(0, 2, 3, 1).flatten(0, 2))
    return out
