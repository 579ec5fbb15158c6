"""What is to hold on a GPU, and was checked on CPUs only; `TEST_DEVICE=cpu` runs it there."""
import copy
import os
from statistics import median

import pytest
import timm
import torch
from common import peak_bytes
from helpers import settle_, shake_
from timm.utils import reparameterize_model

import timm_se50  # noqa: F401

pytestmark = pytest.mark.gpu
SMALL = dict(layers=(1, 1, 1, 1), num_classes=10)


@pytest.fixture(scope='module')
def device():
    name = os.environ.get('TEST_DEVICE', 'cuda')
    if name == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA here')
    return torch.device(name)


@pytest.fixture
def exact(monkeypatch):
    """No TF32, and cuDNN's algorithms that give the same numbers each time."""
    monkeypatch.setattr(torch.backends.cudnn, 'deterministic', True)
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch.backends.cuda.matmul, 'allow_tf32', False)


@pytest.fixture(scope='module')
def weights():
    torch.manual_seed(0)
    return settle_(timm.create_model('resnet50', **SMALL)).state_dict()


def make(weights, name='se_resnet50_replace', **kwargs):
    model = timm.create_model(name, **SMALL, **kwargs)
    model.load_state_dict(weights)
    return model


def images(device, layout=torch.contiguous_format):
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    return x.to(device).contiguous(memory_format=layout)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('setting', ['', 'benchmark', 'allow_tf32'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_step_0(device, exact, weights, monkeypatch, route, dtype, setting, layout):
    if setting:
        monkeypatch.setattr(torch.backends.cudnn, setting, True)
    x = images(device, layout).to(dtype)
    plain, ours = (make(weights, name).to(device, dtype).to(memory_format=layout)
                   for name in ('resnet50', f'se_resnet50_{route}'))
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), plain.eval()(x))
        assert torch.equal(ours.train()(x), plain.train()(x))


def step(model, x, autocast=False, run=None):
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        output = (model if run is None else run)(x)
    output.double().sin().sum().backward()
    return {'output': output.detach().double()} | {k: p.grad.double() for k, p in model.named_parameters()} | {
        k: b.double() for k, b in model.named_buffers()}


def errors(found, expected):
    return [((found[k] - v).norm() / (v.norm() + 1e-12)).item() for k, v in expected.items()]


@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('compiled', [False, True], ids=['eager', 'compiled'])
def test_a_memory_efficient_step_is_as_near_to_float64(device, exact, weights, compiled, autocast):
    """At most twice as far off as the plain path; compiled by inductor, so by Triton on a GPU.

    The median tensor is: where rounding has one ReLU decide otherwise, a few tensors are off by far more.
    """
    x = images(device)
    plain, ours = (shake_(make(weights, memory_efficient=m)).to(device).train() for m in (False, True))
    expected = step(copy.deepcopy(plain).double(), x.double())
    torch._dynamo.reset()
    run = torch.compile(ours, fullgraph=True) if compiled else None
    found, modules = (median(errors(step(m, x, autocast, r), expected)) for m, r in ((ours, run), (plain, None)))
    assert found < 2 * modules + 1e-5


@pytest.mark.parametrize('compiled', [False, True], ids=['eager', 'compiled'])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-4), (torch.float16, 2e-2)], ids=str)
def test_inference_form(device, exact, weights, dtype, tolerance, compiled):
    x, model = images(device), shake_(make(weights)).eval()
    with torch.inference_mode():
        expected = model.to(device)(x)
        form = reparameterize_model(model).to(device, dtype)
        if compiled:
            torch._dynamo.reset()
            form = torch.compile(form, fullgraph=True)
        assert errors({'output': form(x.to(dtype)).float()}, {'output': expected})[0] < tolerance


def test_peak_memory(device, weights):
    if device.type != 'cuda':
        pytest.skip('only CUDA counts it')
    peaks = []
    for memory_efficient in (False, True):
        model = make(weights, memory_efficient=memory_efficient).to(device).train()
        step(model, images(device))
        x = torch.randn(32, 3, 128, 128, device=device)
        peaks.append(peak_bytes(lambda model=model, x=x: step(model, x)))
    assert peaks[1] < peaks[0]
