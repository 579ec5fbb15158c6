"""Convolutions whose weight is saved as it is, and those that are matrix products, against PyTorch's."""
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from timm_se50.memory_efficient import convolution as module
from timm_se50.memory_efficient.convolution import convolution

KINDS = {
    'pointwise': {}, 'strided': {'stride': 2}, 'strided in one direction': {'stride': (1, 3)},
    '3x3': {'kernel_size': 3, 'padding': 1}, '3x3, strided': {'kernel_size': 3, 'stride': 2, 'padding': 1},
    '3x5': {'kernel_size': (3, 5), 'stride': (2, 1), 'padding': (0, 2)}, 'pointwise, padded': {'padding': 1},
}
OTHERS = {'groups': {'groups': 2}, 'dilation': {'kernel_size': 3, 'dilation': 2}}
PRODUCTS = torch.backends.cpu.get_cpu_capability().startswith('AVX512')


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def make(dtype=torch.bfloat16, layout=torch.channels_last, layout_of_weight=None, size=(9, 8), **kwargs):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, **{'kernel_size': 1, 'bias': False, **kwargs}).to(memory_format=layout_of_weight or layout)
    return conv, torch.randn(3, 6, *size).to(dtype, memory_format=layout).requires_grad_()


def results(function, x, weight):
    """Output and gradients; the weight's in its own precision."""
    output = function(x)
    gradient = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    return output.detach(), *torch.autograd.grad(output, (x, weight), gradient)


@pytest.mark.parametrize('kind', KINDS | OTHERS)
def test_output_and_gradients_are_as_near_to_float64_as_pytorchs(kind, layout):
    conv, x = make(layout=layout, **(KINDS | OTHERS)[kind])
    found = results(lambda x: convolution(x, conv), x, conv.weight)
    half = conv.weight.detach().bfloat16().requires_grad_()
    plain = results(lambda x: conv._conv_forward(x, half, None), x, half)
    x64, w64 = (t.detach().double().requires_grad_() for t in (x, half))
    exact = results(lambda x: conv._conv_forward(x, w64, None), x64, w64)
    for f, p, e in zip(found, plain, exact, strict=True):
        assert (f - e).norm() < 1.1 * (p - e).norm() + 1e-3 * e.norm()
    assert [t.dtype for t in found] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert all(t.is_contiguous(memory_format=layout) for t in found)
    assert not convolution(x, conv)._is_view()


@pytest.mark.skipif(not PRODUCTS, reason='a CPU with AVX-512')
@pytest.mark.parametrize(('kwargs', 'expected'), [
    *((kwargs, True) for kwargs in KINDS.values()),
    *((kwargs, False) for kwargs in OTHERS.values()),
    ({'dtype': torch.float32}, False), ({'layout': torch.contiguous_format}, False),
    ({'layout_of_weight': torch.contiguous_format, 'kernel_size': 3}, False),
    ({'size': (30, 30)}, False), ({'size': (30, 30), 'stride': 30}, True),
], ids=str)
def test_where_there_are_few_pixels_it_is_a_matrix_product(kwargs, expected, monkeypatch):
    monkeypatch.setattr(module, 'MAX_PIXELS', 3 * 9 * 8 / 8 * 1.5)
    conv, x = make(**kwargs)
    with torch.no_grad(), Operators() as operators:
        convolution(x, conv)
    assert ('mm' in operators.names) == expected == ('convolution' not in operators.names)


@pytest.mark.parametrize('frozen', ['x', 'weight'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_frozen_part_gets_no_gradient_and_the_other_the_same(kind, frozen, layout):
    conv, x = make(layout=layout, **KINDS[kind])
    tensors = {'x': x, 'weight': conv.weight}
    convolution(x, conv).float().sin().sum().backward()
    expected = {name: t.grad.clone() for name, t in tensors.items()}
    for name, t in tensors.items():
        t.grad = None
        t.requires_grad_(name != frozen)
    convolution(x, conv).float().sin().sum().backward()
    for name, t in tensors.items():
        assert t.grad is None if name == frozen else torch.equal(t.grad, expected[name])


def test_the_weight_is_saved_as_it_is():
    conv, x = make()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()), lambda t: t):
        convolution(x, conv)
    assert saved == [x.data_ptr(), conv.weight.data_ptr()]


def test_a_second_derivative_is_refused():
    conv, x = make()
    with pytest.raises(RuntimeError, match='no second derivative'):
        torch.autograd.grad(convolution(x, conv).sum(), x, create_graph=True)
