"""The inference form of a block leaves alone what it cannot fold."""
import pytest
import torch
from helpers import shake_
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import parametrizations

from timm_se50.inference.fuse import InferenceBottleneck

# Of the largest output: one block's float64 arithmetic, in another order.
FLOAT64 = 1e-12


@pytest.fixture
def block(create):
    return shake_(create('patch')).double().layer2[0]


def check(block, fused):
    x = torch.randn(2, block.conv1.in_channels, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    with torch.no_grad():
        expected = block(x)
        assert ((fused(x) - expected).abs().max() / expected.abs().max()).item() < FLOAT64


def norms(block):
    return [name for name, m in block.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_frozen_batch_norm_folds(block):
    block = freeze_batch_norm_2d(block)
    fused = block.fuse()
    assert type(fused) is InferenceBottleneck
    assert not any('running_var' in key for key in fused.state_dict())
    check(block, fused)


@pytest.mark.parametrize(('lacks', 'left'), [(('weight', 'bias'), []), (('running_mean', 'running_var'), ['bn3'])])
def test_batch_norm_without_affine_folds_and_without_statistics_stays(block, lacks, left):
    for name in lacks:
        setattr(block.bn3, name, None)
    assert norms(block.fuse()) == left
    check(block, block.fuse())


def test_subclass_stays(block):
    class Doubled(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    block.bn2.__class__ = Doubled
    fused = block.fuse()
    assert norms(fused) == ['bn2']
    check(block, fused)


def parametrize_(module):
    parametrizations.weight_norm(getattr(module, 'fc1', module))


def hook_(module):
    module.register_forward_hook(lambda module, args, out: 2 * out)


def override_(module):
    module.forward = lambda x, forward=module.forward: 2 * forward(x)


@pytest.mark.parametrize(('name', 'change_'), [
    *((name, change_) for name in ('conv1', 'conv3', 'downsample.0', 'se_standard', 'se_standard.fc1')
      for change_ in (parametrize_, hook_, override_)),
    *((name, change_) for name in ('downsample', '') for change_ in (hook_, override_)),
])
def test_changed_module_stays(block, name, change_):
    change_(block.get_submodule(name))
    check(block, block.fuse())


@pytest.mark.parametrize('settings', [
    dict(kernel_size=1, stride=2), dict(kernel_size=3, padding=1), dict(kernel_size=1, padding=1, stride=2)], ids=str)
def test_squeeze_stays_behind_a_convolution_that_does_not_commute_with_the_mean(block, settings):
    block.conv3 = nn.Conv2d(block.conv3.in_channels, block.conv3.out_channels, bias=False, **settings).double()
    block.conv2.stride = (2, 2) if settings.get('stride', 1) == 1 else (1, 1)
    if settings.get('padding') and settings['kernel_size'] == 1:
        block.conv2.padding = (0, 0)
    fused = block.fuse()
    assert type(fused) is type(block)
    assert norms(fused) == []
    check(block, fused)


@pytest.mark.parametrize('name', ['fc1', 'fc2'])
def test_se_without_bias_stays(block, name):
    getattr(block.se_standard, name).register_parameter('bias', None)
    check(block, block.fuse())


def test_frozen_parameters_stay_frozen(block):
    block.requires_grad_(False)
    block.conv2.requires_grad_(True)
    fused = block.fuse()
    assert {name for name, p in fused.named_parameters() if p.requires_grad} == {'conv2.weight', 'conv2.bias'}
