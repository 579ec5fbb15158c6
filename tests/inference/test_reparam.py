"""`timm.models.reparameterize_model()`: the inference form of a model computes what the model computes.

The network is narrow, but where rounding is looked at, since that turns on the kernels, and those on the width.
"""
import copy

import pytest
import timm
import torch
from helpers import NARROW, changed, settle_, shake_
from timm.layers import BlurPool2d
from timm.models.resnet import Bottleneck
from timm.utils import reparameterize_model
from torch import nn

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
def test_computes_the_same(create, images, position, memory_format):
    model = shake_(create('replace', se_position=position)).double().to(memory_format=memory_format)
    fused = reparameterize_model(model)
    assert difference(fused, model, images.double().to(memory_format=memory_format)) < FLOAT64
    assert not any(isinstance(m, nn.BatchNorm2d) for stage in (fused.layer1, fused.layer4) for m in stage.modules())
    blocks = [m for m in fused.modules() if isinstance(m, InferenceBottleneck)]
    assert len(blocks) == (16 if position == 'standard' else 0)


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


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('block', ['layer2.0', 'layer2.1'])
def test_block_computes_the_same_at_any_size(create, block, memory_format):
    block = shake_(create('replace')).double().get_submodule(block)
    fused = block.fuse()
    generator = torch.Generator().manual_seed(3)
    for size in ((1, 1), (3, 5), (13, 40)):
        size = [s * block.stride for s in size]
        x = torch.randn(3, block.conv1.in_channels, *size, generator=generator, dtype=torch.double)
        x = x.to(memory_format=memory_format)
        assert difference(fused, block, x) < FLOAT64
        assert difference(fused, block, x[:, :, ::2].transpose(2, 3)) < FLOAT64  # neither of the two formats


def test_float32_rounds_as_the_model_does(create50, images):
    model = shake_(create50('replace'))
    fused = reparameterize_model(model)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        expected = exact(images.double())
        own, fused_error = ((m(images) - expected).abs().max() for m in (model, fused))
        assert fused_error < 4 * own  # both are rounding errors, and the largest of 2000 is a random number
        assert torch.equal(fused(images).argmax(1), expected.argmax(1))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(create50, images, dtype):
    model = shake_(create50('replace'))
    fused = reparameterize_model(model)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast('cpu', dtype):
            own, fused_error = ((m(images) - expected).abs().max() for m in (model, fused))
    assert fused_error < 4 * own


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
def test_writes_into_no_tensor_that_others_hold(create, images, position):
    fused = reparameterize_model(shake_(create('replace', se_position=position)))
    held = []
    for stage in (fused.layer1, fused.layer2, fused.layer3, fused.layer4):
        for block in stage:
            block.register_forward_hook(lambda _, args, out: held.extend((t, t.clone()) for t in (*args, out)))
    with torch.no_grad():
        fused(images)
    assert len(held) == 32
    assert all(torch.equal(tensor, copied) for tensor, copied in held)


def test_gradient(create, images):
    model = shake_(create('replace')).double()
    gradients = []
    for m in (model, reparameterize_model(model)):
        x = images.double().requires_grad_()
        m(x).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8 * gradients[0].abs().max().item())


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


def test_the_gates_sigmoid_is_no_module(create):
    """Which docs/inference.md says, for whoever counts on a module for each non-linearity, as DeepLift does."""
    model = create('replace')
    for m in (model, reparameterize_model(model)):
        assert not any('igmoid' in type(layer).__name__ for layer in m.modules())


def test_blocks_without_se_stay(create, images):
    model = shake_(create('replace', se_stages=(3, 4))).double()
    fused = reparameterize_model(model)
    assert all(type(block) is Bottleneck for stage in (fused.layer1, fused.layer2) for block in stage)
    assert all(type(block) is InferenceBottleneck for stage in (fused.layer3, fused.layer4) for block in stage)
    assert difference(fused, model, images.double()) < FLOAT64


@pytest.mark.parametrize('position', POSITIONS)
def test_basic_blocks(images, position):
    torch.manual_seed(0)
    model = settle_(timm.create_model('resnet18'))
    model = shake_(timm_se50.replace_blocks_(model, timm_se50.SEConfig(position=position))).double()
    fused = reparameterize_model(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.layer2.modules())
    assert difference(fused, model, images.double()) < FLOAT64
