"""The inference form of a block leaves alone what it cannot fold."""
import pytest
import torch
from helpers import shake_
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.nn.utils import parametrizations

from timm_se50 import SEBottleneck
from timm_se50.inference import InferenceBottleneck

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


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def without_(norm, *names):
    for name in names:
        setattr(norm, name, None)


def conv3_(block, **settings):
    """Another last convolution; the second makes up for its stride and padding."""
    block.conv3 = nn.Conv2d(block.conv3.in_channels, block.conv3.out_channels, bias=False, **settings).double()
    block.conv2.stride = (2, 2) if settings.get('stride', 1) == 1 else (1, 1)
    block.conv2.padding = (0, 0) if settings['kernel_size'] == 1 and 'padding' in settings else (1, 1)


CHANGES = {  # what is changed, the norms that stay, and whether SE folds
    'frozen norms': (freeze_batch_norm_2d, [], True),
    'norm without affine': (lambda b: without_(b.bn3, 'weight', 'bias'), [], True),
    'norm without statistics': (lambda b: without_(b.bn3, 'running_mean', 'running_var'), ['bn3'], False),
    'subclass of a norm': (lambda b: setattr(b.bn2, '__class__', Doubled), ['bn2'], False),
    'fc1 without bias': (lambda b: without_(b.se_standard.fc1, 'bias'), [], False),
    'fc2 without bias': (lambda b: without_(b.se_standard.fc2, 'bias'), [], False),
    # convolutions that do not commute with the mean
    'conv3 with stride': (lambda b: conv3_(b, kernel_size=1, stride=2), [], False),
    'conv3 of 3x3': (lambda b: conv3_(b, kernel_size=3, padding=1), [], False),
    'conv3 with padding': (lambda b: conv3_(b, kernel_size=1, padding=1, stride=2), [], False),
}


@pytest.mark.parametrize('name', CHANGES)
def test_what_folds_and_what_stays(block, name):
    change_, left, folds = CHANGES[name]
    block = change_(block) or block
    fused = block.fuse()
    assert type(fused) is (InferenceBottleneck if folds else SEBottleneck)
    assert [name for name, m in fused.named_modules() if 'BatchNorm' in type(m).__name__ or type(m) is Doubled] == left
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
