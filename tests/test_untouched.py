"""Nothing that the ResNet had is touched: tensors, logits, the gradient of each of its parameters, its training."""
import contextlib
import copy
import itertools

import pytest
import timm
import torch
from helpers import INSERT, NARROW, ROUTES, by_turns, changed, settle_
from torch.nn import functional as F

from timm_se50 import SEConfig, SEModule, se_parameters

POSITIONS = ('standard', 'pre', 'post', 'identity')


@pytest.fixture(scope='module')
def small():
    """A plain ResNet of four bottlenecks, trained-like, 10 classes; and the routes' SE networks by position."""
    torch.manual_seed(0)
    plain = settle_(timm.create_model('resnet50', layers=(1, 2, 1, 1), num_classes=10, **NARROW))
    return plain, {
        (route, position): INSERT[route](copy.deepcopy(plain), SEConfig(position=position))
        for route, position in itertools.product(ROUTES, POSITIONS)}


@pytest.mark.parametrize('position', POSITIONS)
def test_every_tensor_is_the_same_object(insert_, plain, position):
    before = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}
    numbers = {k: v.clone() for k, v in plain.state_dict().items()}
    after = insert_(plain, SEConfig(position=position))
    now = {**dict(after.named_parameters()), **dict(after.named_buffers())}
    assert all(now[k] is v for k, v in before.items())
    assert all(torch.equal(after.state_dict()[k], v) for k, v in numbers.items())
    assert {id(p) for k, p in now.items() if k not in before} == {id(p) for p in se_parameters(after)}


CASTS = {
    'float16': (torch.float16, contextlib.nullcontext),
    'bfloat16': (torch.bfloat16, contextlib.nullcontext),
    'float32': (torch.float32, contextlib.nullcontext),
    'float64': (torch.float64, contextlib.nullcontext),
    'autocast bfloat16': (torch.float32, lambda: torch.autocast('cpu', torch.bfloat16)),
    'autocast float16': (torch.float32, lambda: torch.autocast('cpu', torch.float16)),
}


@pytest.mark.parametrize(
    ('position', 'cast', 'memory_format', 'route'),
    by_turns(POSITIONS, CASTS, [torch.contiguous_format, torch.channels_last]), ids=str)
def test_logits_and_gradients(small, images, route, position, cast, memory_format):
    """Eval and train; after a step in train mode the running statistics too."""
    dtype, context = CASTS[cast]
    x = images[:, :, :32, :32].to(dtype).to(memory_format=memory_format)
    plain, model = (copy.deepcopy(m).to(dtype).to(memory_format=memory_format)
                    for m in (small[0], small[1][route, position]))
    for mode in (False, True):
        with context():
            logits = [m.train(mode)(x) for m in (plain, model)]
        assert torch.equal(*logits)
        for m, y in zip((plain, model), logits):
            m.zero_grad()
            F.cross_entropy(y.float(), torch.tensor([1, 2])).backward()
        shared = dict(model.named_parameters())
        assert all(torch.equal(p.grad, shared[k].grad) for k, p in plain.named_parameters())
        assert all(p.grad.any() for k, p in plain.named_parameters() if 'fc' not in k)
    assert all(torch.equal(v, model.get_buffer(k)) for k, v in plain.named_buffers())


@pytest.mark.parametrize(('position', 'route'), by_turns(POSITIONS))
def test_gradients_of_all_161_parameters(create50, route, plain50, images, position):
    model, plain = create50(route, se_position=position), plain50
    for m in (model, plain):
        F.cross_entropy(m.train()(images), torch.tensor([1, 2])).backward()
    gradients = {k: p.grad for k, p in model.named_parameters()}
    assert len(list(plain.parameters())) == 161
    assert all(torch.equal(p.grad, gradients[k]) for k, p in plain.named_parameters())
    # a zero fc2 passes nothing back to fc1 in the first step
    assert all(g.any() == ('.fc2.' in k) for k, g in gradients.items() if '.se_' in k)


OPTIMIZERS = {
    'SGD': lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    'AdamW': lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize(('position', 'optimizer', 'route'), by_turns(POSITIONS, OPTIMIZERS))
def test_training_with_se_frozen_is_the_plain_networks(small, images, route, position, optimizer):
    plain, model = copy.deepcopy(small[0]), copy.deepcopy(small[1][route, position])
    before = copy.deepcopy(plain.state_dict())
    for parameter in se_parameters(model):
        parameter.requires_grad_(False)
    for m in (plain, model):
        steps = OPTIMIZERS[optimizer]([p for p in m.train().parameters() if p.requires_grad])
        for step in range(4):
            steps.zero_grad()
            F.cross_entropy(m(images[:, :, :32, :32] + step), torch.tensor([1, 2])).backward()
            steps.step()
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in plain.state_dict().items())
    assert set(changed(plain, before)) == set(before), 'a tensor stayed, so nothing was trained'


@pytest.mark.parametrize('position', POSITIONS)
def test_at_its_steepest(position):
    """The gate is 2 * sigmoid(4 * logit): 1 at 0, with a slope of 4 * 2 / 4."""
    model = timm.create_model('se_resnet50_patch', se_position=position, layers=(1, 1, 1, 1))
    for se in (m for m in model.modules() if isinstance(m, SEModule)):
        x = torch.randn(3, se.fc1.in_channels, 5, 5)
        assert torch.equal(se.gate(x), torch.ones(3, se.fc1.in_channels, 1, 1))
        [slope] = torch.autograd.grad(se.gate(x).sum(), se.fc2.bias)
        assert torch.equal(slope, torch.full_like(slope, 2.0 * 3))
