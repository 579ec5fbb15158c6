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
from timm.utils import reparameterize_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

import timm_se50
from timm_se50.inference import InferenceBottleneck
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


@torch.no_grad()
@pytest.mark.parametrize('autocast', [None, torch.bfloat16, torch.float16])
def test_rounds_as_the_model_does(create50, images, autocast):
    model = shake_(create50('replace'))
    fused, expected = reparameterize_model(model), copy.deepcopy(model).double()(images.double())
    with torch.autocast('cpu', autocast, enabled=autocast is not None):
        own, fused_error = ((m(images) - expected).abs().max() for m in (model, fused))
    assert fused_error < 4 * own  # both are rounding errors, and the largest of 2000 is a random number


def test_model_is_left_unchanged(create):
    model = shake_(create('replace'))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fused = reparameterize_model(model)
    assert not changed(model, before)
    assert sum(type(m) is timm_se50.SEBottleneck for m in model.modules()) == 16
    for one, other in ((model, fused), (model.layer1[0], model.layer1[0].fuse())):
        assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in other.parameters()}


@pytest.mark.parametrize('position', POSITIONS)
def test_twice_is_once(create, images, position):
    once = reparameterize_model(shake_(create('replace', se_position=position)))
    twice = reparameterize_model(once)
    assert not changed(twice, once.state_dict())
    with torch.no_grad():
        assert torch.equal(twice(images), once(images))


@pytest.mark.parametrize('position', ['standard', 'pre'])
def test_training_mode_does_not_matter(create, images, position):
    model = shake_(create('replace', drop_path_rate=0.5, drop_block_rate=0.5, se_position=position))
    fused, from_training = reparameterize_model(model), reparameterize_model(model.train())
    with torch.no_grad():
        assert torch.equal(from_training.eval()(images), fused(images))
        # and neither does that of the result, behind the stem, which timm leaves as it is
        stages = nn.Sequential(fused.layer1, fused.layer2, fused.layer3, fused.layer4)
        x = torch.randn(2, fused.layer1[0].conv1.in_channels, 16, 16)
        assert torch.equal(stages.eval()(x.clone()), stages.train()(x.clone()))


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


class Kept(nn.Module):
    """A user's layer, which keeps what it gives."""

    def __init__(self, layer, keep):
        super().__init__()
        self.layer, self.keep = layer, keep

    def forward(self, x):
        out = self.layer(x)
        self.keep(self, x, out)
        return out


class Recorder(TorchFunctionMode):
    """Keeps what functions give."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.keep(None, None, out)
        return out


@torch.no_grad()
@pytest.mark.parametrize('who', ['global hook', 'function mode', 'layer'])
def test_writes_into_nothing_that_others_keep(create, who):
    block = shake_(create('replace')).layer2[1].fuse()
    block.act3.inplace = False  # in place it is in the model as well
    x, kept = torch.randn(2, block.conv1.in_channels, 8, 8), []

    def keep(module, _, out):
        if module in (block.conv3, None) and isinstance(out, torch.Tensor) and out.shape == x.shape:
            kept.append((out, out.clone()))

    expected = block(x)
    with contextlib.ExitStack() as stack:
        if who == 'layer':
            block.conv3 = Kept(block.conv3, keep)
        elif who == 'function mode':
            stack.enter_context(Recorder(keep))
        else:
            stack.callback(register_module_forward_hook(keep).remove)
        actual = block(x)
    assert torch.equal(actual, expected)
    assert kept
    assert all(torch.equal(*pair) for pair in kept)
