"""The memory-efficient functions by themselves, against what they stand for."""
import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from timm_se50 import SEModule
from timm_se50.memory_efficient.arithmetic import traced_norm_relu, traced_norm_se_add_relu
from timm_se50.memory_efficient.eager import bottleneck, norm_se_add_relu

# A function -> the steps that it stands for; a number tells modules of a kind apart
BY_HAND = {
    'norm_se_add_relu': 'norm se add relu',
    'bottleneck': 'conv1 norm1 relu conv2 norm2 relu conv3 norm se add relu',
    'bottleneck, conv3 remade': 'conv1 norm1 relu conv2 norm2 relu conv3 norm se add relu',
}
KINDS = BY_HAND | {'traced_norm_relu': 'norm relu', 'traced_norm_se_add_relu': 'norm se add relu'}


class Tail(nn.Module):
    """Any of the functions, by `kind`, and the modules it works with, shaken so that nothing is neutral."""

    def __init__(self, kind, channels=8, size=(3, 2)):
        super().__init__()
        self.kind, self.steps, self.shape = kind, KINDS[kind].split(), (channels, *size)
        for name in self.steps:
            width = channels if name == 'norm' else channels // 2
            if name.startswith('norm'):
                self.add_module(name, nn.BatchNorm2d(width))
            elif name == 'conv2':
                self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
            elif name.startswith('conv'):
                self.add_module(name, nn.Conv2d(*[channels, width][::1 if name == 'conv1' else -1], 1, bias=False))
            elif name == 'se':
                self.se = SEModule(channels, 4, neutral=True)
        with torch.no_grad():
            for p in self.parameters():
                p.add_(torch.randn_like(p), alpha=0.3)

    def inputs(self, layout):
        inputs = torch.randn(1 + ('add' in self.steps), 4, *self.shape, dtype=self.norm.weight.dtype) + 0.5
        return [i.contiguous(memory_format=layout).requires_grad_() for i in inputs]

    def forward(self, x, shortcut=None, keep=None, plain=False):
        if not plain and self.kind == 'traced_norm_relu':
            return traced_norm_relu(x, self.norm)
        if not plain and self.kind.startswith('bottleneck'):
            return bottleneck(
                x, shortcut, (self.conv1, self.conv2, self.conv3), (self.norm1, self.norm2, self.norm), self.se, keep,
                'remade' in self.kind)
        if not plain:
            function = norm_se_add_relu if self.kind in BY_HAND else traced_norm_se_add_relu
            return function(x, shortcut, self.norm, self.se, keep)
        for step in self.steps:
            if step == 'relu':
                x = relu(x)
            elif step == 'add':
                x = x * (1 if keep is None else keep[..., None, None]) + shortcut
            else:
                x = getattr(self, step)(x)
        return x


DROP_PATH = torch.tensor([[0.0], [1.0], [1.25], [2.0]], dtype=torch.double)


@pytest.mark.parametrize(('kind', 'settings', 'keep'), [
    *((kind, {}, None) for kind in KINDS),
    *((kind, {}, DROP_PATH) for kind in KINDS if 'add' in KINDS[kind]),
    ('norm_se_add_relu', {'size': (1, 1)}, None),  # a single number of a sample has no variance
])
def test_output_gradients_and_statistics_are_those_of_the_modules(kind, settings, keep, layout):
    torch.manual_seed(0)
    results = []
    tail = Tail(kind, channels=32, **settings).double()
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
    names = ['inputs', *expected]
    for frozen in [*([name] for name in names), *(names[:i] for i in range(2, len(names)))]:
        tail.requires_grad_(True).zero_grad()
        for name, parameter in tail.named_parameters():
            parameter.requires_grad_(name not in frozen)
        tail(*[i.detach() if 'inputs' in frozen else i for i in inputs]).sin().sum().backward()
        for name, parameter in tail.named_parameters():
            assert (parameter.grad is None) if name in frozen else torch.equal(parameter.grad, expected[name])


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
