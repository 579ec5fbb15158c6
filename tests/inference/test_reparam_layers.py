"""The inference form of a block leaves alone what it cannot fold."""
import copy
import pickle

import pytest
import torch
from helpers import shake_
from timm.layers import freeze_batch_norm_2d
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.utils import parametrizations

from timm_se50.inference.fuse import InferenceBottleneck
from timm_se50.inference.inplace_norm import InplaceBatchNorm2d

# Of the largest output: one block's float64 arithmetic, in another order.
FLOAT64 = 1e-12


@pytest.fixture
def block(create):
    return shake_(create('patch')).double().layer2[0]


def check(block, fused):
    x = torch.randn(2, 256, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.double)
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


def test_batch_norm_without_affine_folds(block):
    for name in ('bn1', 'bn2', 'bn3'):
        norm = getattr(block, name)
        norm.weight = norm.bias = None
    assert norms(block.fuse()) == []
    check(block, block.fuse())


def test_batch_norm_without_running_statistics_stays(block):
    block.bn3.running_mean = block.bn3.running_var = None
    fused = block.fuse()
    assert norms(fused) == ['bn3']
    check(block, fused)


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
    block.conv3 = nn.Conv2d(128, 512, bias=False, **settings).double()
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


class TestStem:
    """Its BatchNorm cannot go into conv1, which timm asks alone; it works in place instead."""

    @pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
    def x(self, request):
        generator = torch.Generator().manual_seed(3)
        return torch.randn(2, 64, 16, 16, generator=generator).to(memory_format=request.param)

    @torch.no_grad()
    @pytest.mark.parametrize('affine', [True, False])
    def test_computes_the_same(self, create, x, affine):
        model = shake_(create('patch'))
        if not affine:
            model.bn1.weight = model.bn1.bias = None
        norm, fused = model.bn1, reparameterize_model(model).bn1
        assert type(fused) is InplaceBatchNorm2d
        expected, exact = norm(x), copy.deepcopy(norm).double()(x.double())
        out = fused(x)
        assert out.data_ptr() == x.data_ptr()
        assert (out - exact).abs().max() <= 4 * (expected - exact).abs().max()

    def test_gradient_and_other_dtypes_take_new_memory(self, create, x):
        fused = reparameterize_model(shake_(create('patch'))).bn1
        expected = fused.scale * x + fused.shift
        x.requires_grad_()
        out = fused(x)
        torch.testing.assert_close(out, expected)
        out.sum().backward()
        assert torch.equal(x.grad, fused.scale.expand_as(x))
        with torch.no_grad():
            assert fused(x.bfloat16()).dtype == torch.bfloat16

    @pytest.mark.parametrize('replace_', [freeze_batch_norm_2d, nn.SyncBatchNorm.convert_sync_batchnorm])
    def test_replaced_norm_stays(self, create, replace_):
        model = shake_(create('patch'))
        model.bn1 = replace_(model.bn1)
        assert type(reparameterize_model(model).bn1) is type(model.bn1) is not nn.BatchNorm2d

    @pytest.mark.parametrize('change_', [hook_, override_, lambda norm: setattr(norm, 'running_mean', None)])
    def test_changed_norm_stays(self, create, change_):
        model = shake_(create('patch'))
        change_(model.bn1)
        assert type(reparameterize_model(model).bn1) is nn.BatchNorm2d

    def test_is_of_the_model_it_is_in(self, create):
        model = shake_(create('patch'))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other.bn1.bias.data.zero_()
            fused = reparameterize_model(other).bn1
            assert torch.equal(fused.shift[:, 0, 0], -other.bn1.running_mean * fused.scale[:, 0, 0])
            assert type(other.bn1) is nn.BatchNorm2d
