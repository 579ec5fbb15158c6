"""Under autocast: gradients as near to float64 as the plain path's, where a channel's mean is far from zero, too.

What the functions save has few digits there, and what they make of it again in the backward pass must not have fewer.
"""
import copy

import pytest
import torch
from test_memory_efficient_functions import Tail

SHAPE = (8, 16, 14, 14)


def gradients(tail, inputs, weight, plain, dtype=None):
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        output = tail(*inputs, plain=plain)
    return torch.autograd.grad(output, [*inputs, *tail.parameters()], weight.to(output.dtype))


@pytest.mark.parametrize('mean', [0, 1, 10, 100])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('kind', ['norm_relu_conv', 'norm_se_add_relu'])
def test_gradients_are_as_near_to_float64(kind, dtype, mean):
    torch.manual_seed(0)
    tail = Tail(kind, width=16, channels=16)
    inputs = [(torch.randn(SHAPE) + mean).to(dtype).requires_grad_()]
    if 'add' in kind:  # so large that the ReLU passes all, whatever the rounding: what it does there is no matter here
        inputs.append(torch.full(SHAPE, 32.0, dtype=dtype, requires_grad=True))
    weight = torch.randn(SHAPE)
    exact = gradients(
        copy.deepcopy(tail).double(), [x.detach().double().requires_grad_() for x in inputs], weight, plain=True)
    plain, efficient = (
        [((g.double() - e).norm() / e.norm()).item() for g, e in zip(
            gradients(copy.deepcopy(tail), inputs, weight, plain, dtype), exact)] for plain in (True, False))
    worst = max(b / (a + torch.finfo(dtype).eps / 4) for a, b in zip(plain, efficient))
    assert worst < 1.5, (plain, efficient)
