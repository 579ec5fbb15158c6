"""The statistics that the second form takes from a Gram matrix, against float64, where that is hard."""
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from timm_se50.memory_efficient import blocks as memory_efficient
from timm_se50.memory_efficient.conv import conv_norm

K, C = 64, 256  # layer1


def common(scale):
    """Channels that share four factors, and little else of their own."""
    factors, mixing = torch.randn(8, 4, 16, 16), torch.randn(K, 4)
    return torch.einsum('kf,nfhw->nkhw', mixing, factors) + scale * torch.randn(8, K, 16, 16), mixing


def case(name):
    torch.manual_seed(0)
    weight, h = torch.randn(C, K) * (2 / C) ** 0.5, torch.randn(8, K, 16, 16)
    if name == 'as in a network':
        h = h.relu()
    elif name == 'mean 1e4, std 1':
        h = h + 1e4
    elif name == 'mean 100, std 1e-3':
        h = 100 + 1e-3 * h
    elif name == 'means of 1e3 of either sign, std 1e-2':
        h = 1e3 * torch.randn(K, 1, 1) + 1e-2 * h
    elif name == 'channels from 1e-3 to 1e3':
        h = h.relu() * torch.logspace(-3, 3, K)[:, None, None]
    elif name == 'channels alike':
        h, _ = common(1e-2)
    else:  # the variance is a small difference of large terms
        h, mixing = common(1e-3)
        basis, _ = torch.linalg.qr(mixing.double())
        weight = (weight.double() - weight.double() @ basis @ basis.mT).float()
    return h, weight


@pytest.mark.parametrize('name', [
    'as in a network', 'mean 1e4, std 1', 'mean 100, std 1e-3', 'means of 1e3 of either sign, std 1e-2',
    'channels from 1e-3 to 1e3', 'channels alike', 'channels alike, weights that cancel what they share'])
def test_error_is_at_most_twice_that_of_batch_norm(name):
    h, weight = case(name)
    z = torch.einsum('ck,nkhw->nchw', weight.double(), h.double())
    mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3))
    expected = (z - mean[:, None, None]) / (z.var((0, 2, 3), correction=0)[:, None, None] + 1e-30).sqrt()

    def errors(function):
        """Root mean square errors of running variance (relative), running mean (in std) and output."""
        conv, norm = nn.Conv2d(K, C, 1, bias=False), nn.BatchNorm2d(C, eps=1e-30, momentum=1.0)
        with torch.no_grad():
            conv.weight.copy_(weight[..., None, None])
            output = function(h, conv, norm)
        found = norm.running_var / var - 1, (norm.running_mean - mean) / var.sqrt(), output - expected
        return [e.square().mean().sqrt().item() for e in found]

    ours, plain = errors(conv_norm), errors(lambda h, conv, norm: norm(conv(h)))
    ulp = torch.finfo(torch.float32).eps  # about which both are off where it is easy
    assert all(a <= max(2 * b, ulp / 2) for a, b in zip(ours, plain)), (ours, plain)


@pytest.mark.parametrize(('device', 'expected'), [('cpu', True), ('mps', False)])
def test_second_form_only_where_the_device_has_float64(device, expected):
    with FakeTensorMode():
        h = torch.empty(8, K, 16, 16, device=device)
    assert memory_efficient._is_gram_cheap(nn.Conv2d(K, C, 1, bias=False), h) is expected
