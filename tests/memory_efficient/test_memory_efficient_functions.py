"""The memory-efficient functions by themselves, against what they stand for."""
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import relu

from timm_se50 import SEModule
from timm_se50.memory_efficient.arithmetic import traced_norm_relu, traced_norm_se_add_relu
from timm_se50.memory_efficient.batch_norm import statistics
from timm_se50.memory_efficient.norm import _sums, norm_relu_conv, norm_relu_conv_norm_se_add_relu, norm_se_add_relu


class Tail(nn.Module):
    """Any of the functions, by `kind`, and the modules it works with, shaken so that nothing is neutral."""

    def __init__(self, kind, width=4, channels=8, kernel_size=1, stride=1, groups=1, neutral=True):
        super().__init__()
        self.kind, self.steps = kind, kind.removeprefix('traced_').split('_')
        self.norm = nn.BatchNorm2d(width if 'conv' in kind else channels)
        self.norm2 = nn.BatchNorm2d(channels) if 'norm2' in kind else None
        if 'conv' in kind:
            self.conv = nn.Conv2d(width, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        if 'se' in kind:
            self.se = SEModule(channels, 4, neutral)
        self.shape = (width if 'conv' in kind else channels, 3, 2)
        self.shortcut_shape = (channels, 3, 2)
        with torch.no_grad():
            for p in self.parameters():
                p.add_(torch.randn_like(p), alpha=0.3)

    def inputs(self, layout, n=3):
        shapes = [self.shape, self.shortcut_shape][:1 + ('add' in self.kind)]
        inputs = [torch.randn(n, *shape).contiguous(memory_format=layout) + 0.5 for shape in shapes]
        return [i.to(next(self.parameters()).dtype).requires_grad_() for i in inputs]

    def forward(self, x, shortcut=None, keep=None, plain=False):
        if not plain:
            return {
                'norm_relu_conv': lambda: norm_relu_conv(x, self.norm, self.conv),
                'norm_se_add_relu': lambda: norm_se_add_relu(x, shortcut, self.norm, self.se, keep),
                'norm_relu_conv_norm2_se_add_relu': lambda: norm_relu_conv_norm_se_add_relu(
                    x, shortcut, self.norm, self.conv, self.norm2, self.se, keep),
                'traced_norm_relu_conv': lambda: self.conv(traced_norm_relu(x, self.norm)),
                'traced_norm_se_add_relu': lambda: traced_norm_se_add_relu(x, shortcut, self.norm, self.se, keep),
            }[self.kind]()
        for step in self.steps:
            if step in ('conv', 'norm', 'norm2', 'se'):
                x = getattr(self, step)(x)
            elif step == 'relu':
                x = relu(x)
            else:
                x = x * (1 if keep is None else keep[..., None, None]) + shortcut
        return x


BY_HAND = ('norm_relu_conv', 'norm_se_add_relu', 'norm_relu_conv_norm2_se_add_relu')
KINDS = (*BY_HAND, 'traced_norm_relu_conv', 'traced_norm_se_add_relu')


@pytest.mark.parametrize(('kind', 'conv', 'keep'), [
    ('norm_relu_conv', {}, None),
    ('norm_relu_conv', {'kernel_size': 3, 'stride': 2, 'groups': 2}, None),
    ('norm_se_add_relu', {}, None),
    ('norm_se_add_relu', {}, [0.0, 1.0, 1.25]),
    ('norm_relu_conv_norm2_se_add_relu', {}, None),
    ('norm_relu_conv_norm2_se_add_relu', {}, [0.0, 1.0, 1.25]),
    ('traced_norm_relu_conv', {}, None),
    ('traced_norm_se_add_relu', {}, None),
    ('traced_norm_se_add_relu', {}, [0.0, 1.0, 1.25]),
])
def test_gradcheck(kind, conv, keep, layout):
    torch.manual_seed(0)
    tail = Tail(kind, **conv).double()
    names, parameters = zip(*tail.named_parameters())
    inputs = tail.inputs(layout)
    keep = keep and torch.tensor(keep, dtype=torch.double)[:, None]

    def function(*tensors):
        inputs, values = tensors[:-len(names)], tensors[-len(names):]
        return functional_call(tail, dict(zip(names, values)), inputs, {'keep': keep} if keep is not None else {})

    values = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(function, (*inputs, *values))


@pytest.mark.parametrize('kind', KINDS)
def test_output_gradients_and_statistics_are_those_of_the_modules(kind, layout):
    torch.manual_seed(0)
    results = []
    tail = Tail(kind, width=16, channels=32).double()
    state, inputs = {k: v.clone() for k, v in tail.state_dict().items()}, tail.inputs(layout, n=4)
    weight = None
    for plain in (True, False):
        tail.load_state_dict(state)
        output = tail(*inputs, plain=plain)
        weight = torch.randn_like(output) if weight is None else weight
        gradients = torch.autograd.grad(output, [*inputs, *tail.parameters()], weight)
        results.append([output, *gradients, *(b.clone() for b in tail.buffers())])
        if not plain:  # a layout that is lost costs a copy of the map in every block
            assert all(t.is_contiguous(memory_format=layout) for t in (output, gradients[0]))
            assert not output._is_view()  # of which detach_() and other changes in place are refused
    for expected, found in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)  # float64, sums in another order


@pytest.mark.parametrize('kind', KINDS)
def test_frozen_parts_get_no_gradient_and_the_others_the_same(kind):
    torch.manual_seed(0)
    tail = Tail(kind).double()
    inputs = tail.inputs(torch.contiguous_format)
    expected = dict(zip(dict(tail.named_parameters()), torch.autograd.grad(tail(*inputs).sin().sum(),
                                                                           list(tail.parameters()))))
    for frozen in [*expected, 'inputs']:
        tail.requires_grad_(True).zero_grad()
        for name, parameter in tail.named_parameters():
            parameter.requires_grad_(name != frozen)
        tail(*[i.detach() if frozen == 'inputs' else i for i in inputs]).sin().sum().backward()
        for name, parameter in tail.named_parameters():
            assert (parameter.grad is None) if name == frozen else torch.equal(parameter.grad, expected[name])


@pytest.mark.parametrize('kind', BY_HAND)
def test_second_derivative_is_refused(kind):
    tail = Tail(kind)
    output = tail(*tail.inputs(torch.contiguous_format)).square().sum()
    with pytest.raises(RuntimeError, match=r'no second derivative.*set_memory_efficient\(model, False\)'):
        torch.autograd.grad(output, list(tail.parameters()), create_graph=True)


@pytest.mark.parametrize('kind', BY_HAND)
def test_batched_gradients_are_refused(kind):
    tail = Tail(kind)
    output = tail(*tail.inputs(torch.contiguous_format))
    with pytest.raises(RuntimeError, match=r'no rule for is_grads_batched=True.*set_memory_efficient\(model, False\)'):
        torch.autograd.grad(output, list(tail.parameters()), torch.ones(2, *output.shape), is_grads_batched=True)


@pytest.mark.parametrize('at_once', [False, True])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
def test_sums(memory_format, at_once):
    g, x = (torch.randn(3, 8, 5, 4, dtype=torch.double).contiguous(memory_format=memory_format) for _ in range(2))
    mean, invstd = torch.randn(8, dtype=torch.double), torch.rand(8, dtype=torch.double) + 0.5
    normalized = (x - mean[:, None, None]) * invstd[:, None, None]
    for found, expected in zip(_sums(g, x, mean, invstd, at_once), (g, g * normalized), strict=True):
        torch.testing.assert_close(found, expected.sum((2, 3)), rtol=1e-12, atol=1e-12)

    x = (x + 1e4).float()  # its own rounding apart, nothing cancels
    expected = (g * (x.double() - 1e4)).sum((2, 3))
    _, found = _sums(g.float(), x, torch.full((8,), 1e4), torch.ones(8), at_once)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize('size', [1, 5])  # a single number of a sample has no variance
def test_statistics(dtype, size, layout):
    z = (torch.randn(6, 8, size, size) + torch.arange(-3, 3)[:, None, None, None]).to(dtype, memory_format=layout)
    norm, exact = nn.BatchNorm2d(8), nn.BatchNorm2d(8).double()
    exact(z.double())
    means, mean, invstd = statistics(z, norm)
    var, exact_mean = torch.var_mean(z.double(), (0, 2, 3), correction=0)
    found = means, mean, invstd, norm.running_mean, norm.running_var, norm.num_batches_tracked
    expected = (
        z.double().mean((2, 3)), exact_mean, (var + norm.eps).rsqrt(), exact.running_mean, exact.running_var,
        exact.num_batches_tracked)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)
