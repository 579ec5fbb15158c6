"""The memory-efficient functions by themselves, against what they stand for."""
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from timm_se50 import SEModule
from timm_se50.memory_efficient.arithmetic import traced_norm_relu, traced_norm_se_add_relu
from timm_se50.memory_efficient.norm import norm_relu_conv, norm_relu_conv_norm_se_add_relu, norm_se_add_relu


class Tail(nn.Module):
    """Any of the functions, by `kind`, and the modules it works with, shaken so that nothing is neutral."""

    def __init__(self, kind, width=4, channels=8, kernel_size=1, stride=1, groups=1, size=(3, 2)):
        super().__init__()
        self.kind, self.steps = kind, kind.removeprefix('traced_').split('_')
        self.norm = nn.BatchNorm2d(width if 'conv' in kind else channels)
        self.norm2 = nn.BatchNorm2d(channels) if 'norm2' in kind else None
        if 'conv' in kind:
            self.conv = nn.Conv2d(width, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        if 'se' in kind:
            self.se = SEModule(channels, 4, neutral=True)
        self.shapes = [(width if 'conv' in kind else channels, *size), (channels, *size)][:1 + ('add' in kind)]
        with torch.no_grad():
            for p in self.parameters():
                p.add_(torch.randn_like(p), alpha=0.3)

    def inputs(self, layout):
        inputs = [torch.randn(4, *shape).contiguous(memory_format=layout) + 0.5 for shape in self.shapes]
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
DROP_PATH = torch.tensor([[0.0], [1.0], [1.25], [2.0]], dtype=torch.double)


@pytest.mark.parametrize(('kind', 'settings', 'keep'), [
    *((kind, {}, None) for kind in KINDS),
    *((kind, {}, DROP_PATH) for kind in KINDS if 'add' in kind),
    ('norm_relu_conv', {'kernel_size': 3, 'stride': 2, 'groups': 2}, None),
    ('norm_se_add_relu', {'size': (1, 1)}, None),  # a single number of a sample has no variance
])
def test_output_gradients_and_statistics_are_those_of_the_modules(kind, settings, keep, layout):
    torch.manual_seed(0)
    results = []
    tail = Tail(kind, width=16, channels=32, **settings).double()
    state, inputs = {k: v.clone() for k, v in tail.state_dict().items()}, tail.inputs(layout)
    for plain in (True, False):
        tail.load_state_dict(state)
        output = tail(*inputs, keep=keep, plain=plain)
        gradients = torch.autograd.grad(output.sin().sum(), [*inputs, *tail.parameters()])
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
    tail(*inputs).sin().sum().backward()
    expected = {name: p.grad.clone() for name, p in tail.named_parameters()}
    for frozen in [*expected, 'inputs']:
        tail.requires_grad_(True).zero_grad()
        for name, parameter in tail.named_parameters():
            parameter.requires_grad_(name != frozen)
        tail(*[i.detach() if frozen == 'inputs' else i for i in inputs]).sin().sum().backward()
        for name, parameter in tail.named_parameters():
            assert (parameter.grad is None) if name == frozen else torch.equal(parameter.grad, expected[name])


@pytest.mark.parametrize(('call', 'message'), [
    (dict(create_graph=True), 'second derivative'),
    (dict(is_grads_batched=True), 'rule for is_grads_batched=True'),
], ids=['second derivative', 'batched'])
@pytest.mark.parametrize('kind', BY_HAND)
def test_more_than_a_gradient_is_refused(kind, call, message):
    tail = Tail(kind)
    output = tail(*tail.inputs(torch.contiguous_format))
    weight = torch.ones(2, *output.shape) if 'is_grads_batched' in call else output
    with pytest.raises(RuntimeError, match=rf'no {message}.*set_memory_efficient\(model, False\)'):
        torch.autograd.grad(output, list(tail.parameters()), weight, **call)
