"""Statistics, output and gradients of the end of a block, against float64, where that is hard: in every engine.

The gates are neutral and the shortcut is zero, so that the plain modules to compare with are BatchNorm and ReLU.
"""
import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from timm_se50 import SEModule
from timm_se50.memory_efficient.arithmetic import traced_norm_se_add_relu
from timm_se50.memory_efficient.eager import norm_se_add_relu

C = 16
CASES = {
    'as in a network': lambda z: z,
    'mean 1e4, std 1': lambda z: z + 1e4,
    'mean 100, std 1e-3': lambda z: 100 + 1e-3 * z,
    'means of 1e3 of either sign, std 1e-2': lambda z: 1e3 * torch.randn(C, 1, 1) + 1e-2 * z,
    'mean 100 in half of the channels': lambda z: z + 100 * torch.arange(C).remainder(2)[:, None, None],
    'channels from 1e-3 to 1e3': lambda z: z.relu() * torch.logspace(-3, 3, C)[:, None, None],
    'samples of means from -1e3 to 1e3': lambda z: z + torch.linspace(-1e3, 1e3, len(z))[:, None, None, None],
}


def errors(function, z, norm, se, shortcut, weight, exact):
    """Root mean square errors: running variance (relative), running mean (in std), output, gradient of z (relative)."""
    norm, z = copy.deepcopy(norm), z.clone().requires_grad_()
    output = function(z, shortcut, norm, se)
    gradient, = torch.autograd.grad(output, z, weight.to(output.dtype))
    found = dict(mean=norm.running_mean, var=norm.running_var, output=output.detach(), gradient=gradient)
    if exact is None:
        return found
    std = exact['var'].sqrt()
    found['mean'], found['var'] = (found['mean'] - exact['mean']) / std, found['var'] / exact['var'] - 1
    found['output'], found['gradient'] = found['output'] - exact['output'], (
        (found['gradient'] - exact['gradient']) * std[:, None, None])
    return {k: v.square().mean().sqrt().item() for k, v in found.items()}


def plain(z, shortcut, norm, se):
    return relu(se(norm(z)) + shortcut)


@pytest.mark.parametrize('engine', ['by hand', 'traced', pytest.param('compiled', marks=pytest.mark.thorough)])
def test_error_is_at_most_twice_that_of_the_modules(engine, layout):
    """One test for all cases, so that it is compiled once, by one process."""
    torch._dynamo.reset()
    function = {
        'by hand': norm_se_add_relu, 'traced': traced_norm_se_add_relu,
        'compiled': torch.compile(traced_norm_se_add_relu, fullgraph=True),  # by inductor, which chooses how it sums
    }[engine]
    ulp = torch.finfo(torch.float32).eps  # about which both are off where it is easy
    for name, case in CASES.items():
        torch.manual_seed(0)
        z = case(torch.randn(8, C, 16, 16)).contiguous(memory_format=layout)
        weight, norm, se = (
            torch.randn(z.shape), nn.BatchNorm2d(C, eps=1e-30, momentum=1.0), SEModule(C, 4, neutral=True))
        arguments = z, norm, se, torch.zeros_like(z), weight
        exact = errors(plain, z.double(), copy.deepcopy(norm).double(), copy.deepcopy(se).double(), torch.zeros_like(
            z, dtype=torch.double), weight, None)
        ours, modules = errors(function, *arguments, exact), errors(plain, *arguments, exact)
        assert all(ours[k] <= max(2 * modules[k], ulp / 2) for k in ours), (name, ours, modules)
