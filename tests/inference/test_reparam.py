"""`timm.models.reparameterize_model()`: the inference form of a model computes what the model computes.

The network is narrow, but where rounding is looked at, since that turns on the kernels, and those on the width.
"""
import contextlib
import copy

import pytest
import timm
import torch
from helpers import NARROW, changed, settle_, shake_
from timm.layers import BlurPool2d
from timm.models.resnet import Bottleneck
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

import timm_se50
from timm_se50.inference.fuse import InferenceBottleneck
from timm_se50.squeeze_excite import POSITIONS

# Of the largest logit. A float64 has 2e-16; SE-POST and SE-Identity scale the whole signal 16 times in a row and so
# amplify the rounding, here about 1000 times as much as the standard position does.
FLOAT64 = 1e-10


def difference(model, reference, images):
    """Largest difference of the outputs, relative to the largest output."""
    with torch.no_grad():
        expected = reference(images)
        return ((model(images) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('name', ['resnet50', 'resnet18'])
def test_computes_the_same(images, name, position, memory_format):
    torch.manual_seed(0)
    model = settle_(timm.create_model(name, **NARROW))
    model = shake_(timm_se50.replace_blocks_(model, timm_se50.SEConfig(position=position))).double()
    model = model.to(memory_format=memory_format)
    fused = reparameterize_model(model)
    assert difference(fused, model, images.double().to(memory_format=memory_format)) < FLOAT64
    assert not any(isinstance(m, nn.BatchNorm2d) for stage in (fused.layer1, fused.layer4) for m in stage.modules())
    blocks = [m for m in fused.modules() if isinstance(m, InferenceBottleneck)]
    assert len(blocks) == (16 if (name, position) == ('resnet50', 'standard') else 0)


@pytest.mark.parametrize('settings', [
    dict(drop_path_rate=0.1, drop_block_rate=0.1, drop_rate=0.1),
    dict(aa_layer=BlurPool2d),
    dict(output_stride=8),
    dict(act_layer='silu'),
    dict(norm_layer='groupnorm'),
    dict(cardinality=4, base_width=16, se_reduction=(4, 8, 16, 32)),
    dict(avg_down=True, stem_type='deep', se_stages=(1, 4)),
], ids=lambda settings: '-'.join(settings))
def test_computes_the_same_with_other_settings(images, settings):
    torch.manual_seed(0)
    model = shake_(settle_(timm.create_model('se_resnet50_patch', **NARROW, **settings))).double()
    assert difference(reparameterize_model(model), model, images.double()) < FLOAT64


@pytest.mark.parametrize('block', ['layer2.0', 'layer2.1'])
def test_block_computes_the_same_at_any_size_and_stride(create, block):
    block = shake_(create('replace')).double().get_submodule(block)
    fused = block.fuse()
    generator = torch.Generator().manual_seed(3)
    for size in ((1, 1), (3, 5), (13, 40)):
        size = [s * block.stride for s in size]
        x = torch.randn(3, block.conv1.in_channels, *size, generator=generator, dtype=torch.double)
        assert difference(fused, block, x) < FLOAT64
        assert difference(fused, block, x[:, :, ::2].transpose(2, 3)) < FLOAT64


@torch.no_grad()
@pytest.mark.parametrize('autocast', [None, torch.bfloat16, torch.float16])
def test_rounds_as_the_model_does(create50, images, autocast):
    model = shake_(create50('replace'))
    fused, expected = reparameterize_model(model), copy.deepcopy(model).double()(images.double())
    with torch.autocast('cpu', autocast, enabled=autocast is not None):
        own, fused_error = ((m(images) - expected).abs().max() for m in (model, fused))
    assert fused_error < 4 * own  # both are rounding errors, and the largest of 2000 is a random number


def test_model_is_left_unchanged(create, images):
    model = shake_(create('replace'))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fused = reparameterize_model(model)
    assert not changed(model, before)
    assert sum(type(m) is timm_se50.SEBottleneck for m in model.modules()) == 16
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fused.parameters()}
    assert not shared
    block = model.layer1[0]
    assert not {p.data_ptr() for p in block.parameters()} & {p.data_ptr() for p in block.fuse().parameters()}


@pytest.mark.parametrize('position', POSITIONS)
def test_twice_is_once(create, images, position):
    once = reparameterize_model(shake_(create('replace', se_position=position)))
    twice = reparameterize_model(once)
    assert not changed(twice, once.state_dict())
    with torch.no_grad():
        assert torch.equal(twice(images), once(images))


def test_training_mode_does_not_matter(create, images):
    model = shake_(create('replace', drop_path_rate=0.5))
    fused, from_training = reparameterize_model(model), reparameterize_model(model.train())
    with torch.no_grad():
        assert torch.equal(from_training.eval()(images), fused(images))
        # and neither does that of the result, behind the stem, which timm leaves as it is
        x = model.eval().maxpool(model.act1(model.bn1(model.conv1(images))))
        assert torch.equal(fused.eval().layer1(x.clone()), fused.train().layer1(x.clone()))


@pytest.mark.parametrize('position', POSITIONS)
def test_hooks_keep_what_they_keep_in_the_model(create, images, position):
    """Of each convolution what they keep of its norm: timm's own blocks, too, write some of it over."""
    model = shake_(create('replace', se_position=position)).double()
    fused = reparameterize_model(model)
    layers = {f'conv{i}': f'bn{i}' for i in (1, 2, 3)} | {'act1': 'act1', 'aa': 'aa', 'act3': 'act3'}
    kept = []
    for m, names in ((fused, layers.keys()), (model, layers.values())):
        kept.append([])
        for block in (block for stage in (m.layer1, m.layer2, m.layer3, m.layer4) for block in stage):
            for layer in (block, *map(block.get_submodule, names)):
                layer.register_forward_hook(lambda _, args, out, held=kept[-1]: held.extend((*args, out)))
        with torch.no_grad():
            m(images.double())
    assert len(kept[0]) == 16 * 7 * 2
    # a norm's input is what a convolution gave before it was folded
    for actual, expected in list(zip(*kept, strict=True))[1::2]:
        torch.testing.assert_close(actual, expected, rtol=0, atol=FLOAT64 * expected.abs().max().item())


class Recorder(TorchFunctionMode):
    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.keep(out)
        return out


class Known(nn.Module):
    """A layer that computes once, and gives what it has."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, None

    def forward(self, x):
        self.out = self.layer(x) if self.out is None else self.out
        return self.out


@pytest.mark.parametrize('who', ['global hook', 'function mode', 'layer'])
def test_writes_into_nothing_that_others_keep(create, who):
    block = shake_(create('replace')).layer2[1].fuse()
    block.act3.inplace = False  # in place it is in the model as well
    x, kept = torch.randn(2, block.conv1.weight.shape[1], 8, 8), []

    def keep(out):
        if isinstance(out, torch.Tensor) and out.shape == x.shape:
            kept.append((out, out.clone()))

    with torch.no_grad(), contextlib.ExitStack() as stack:
        expected = block(x)
        if who == 'global hook':
            hook = register_module_forward_hook(lambda module, _, out: keep(out) if module is block.conv3 else None)
            stack.callback(hook.remove)
        elif who == 'function mode':
            stack.enter_context(Recorder(keep))
        else:
            block.conv3 = Known(block.conv3)
        assert torch.equal(block(x), expected)
        keep(getattr(block.conv3, 'out', None))
        assert torch.equal(block(x), expected)
    assert kept
    assert all(torch.equal(*pair) for pair in kept)


def test_hooks_on_relu_find_the_same_ones(create, images):
    """Guided backpropagation: what comes back through a ReLU is its positive part."""
    model = shake_(create('replace')).double()
    gradients = []
    for m in (model, reparameterize_model(model)):
        for relu in (relu for relu in m.modules() if isinstance(relu, nn.ReLU)):
            relu.inplace = False
            relu.register_full_backward_hook(lambda _, grads, outs: (grads[0].relu(),))
        x = images.double().requires_grad_()
        m(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8 * gradients[0].abs().max().item())


def test_blocks_without_se_stay(create, images):
    model = shake_(create('replace', se_stages=(3, 4))).double()
    fused = reparameterize_model(model)
    assert all(type(block) is Bottleneck for stage in (fused.layer1, fused.layer2) for block in stage)
    assert all(type(block) is InferenceBottleneck for stage in (fused.layer3, fused.layer4) for block in stage)
    assert difference(fused, model, images.double()) < FLOAT64
