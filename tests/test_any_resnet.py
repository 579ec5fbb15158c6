"""SE into any live ResNet; what it cannot go into is refused with the reason, and left as it was."""
import copy
import itertools
import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from helpers import NARROW, by_turns, changed, settle_
from timm.layers import BlurPool2d, GroupNorm, LayerNorm2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

from timm_se50 import SEConfig, SEModule, se_parameters

POSITIONS = ('standard', 'pre', 'post', 'identity')
RESNETS = {
    'resnet18': {},
    'resnet34': {},
    'resnet26': {},
    'resnet101': {},
    'resnet50d': {},
    'resnet26t': {},
    'resnext50_32x4d': {},
    'wide_resnet50_2': {},
    'resnet18d': dict(aa_layer=BlurPool2d),
    'resnet26d': dict(aa_layer=nn.AvgPool2d, drop_path_rate=0.2, output_stride=8),
    'resnet50': dict(output_stride=16, drop_block_rate=0.1, act_layer='silu'),
}


def assert_same(model, reference, x):
    for mode in (False, True):
        outputs = []
        for m in (model.train(mode), reference.train(mode)):
            torch.manual_seed(1)
            outputs.append(m(x))
        assert torch.equal(*outputs)
    assert all(torch.equal(v, model.get_buffer(k)) for k, v in reference.named_buffers())


CASES = {*zip(RESNETS, itertools.cycle(POSITIONS)), *itertools.product(('resnet18', 'resnet26d'), POSITIONS)}


@pytest.mark.parametrize(('case', 'route'), by_turns(sorted(CASES)), ids=str)
def test_function_is_preserved(insert_, images, case):
    name, position = case
    torch.manual_seed(0)
    model = settle_(timm.create_model(name, num_classes=10, **NARROW, **RESNETS[name]))
    reference = copy.deepcopy(model)
    insert_(model, SEConfig(reduction=4, position=position))
    blocks = sum(isinstance(m, (Bottleneck, BasicBlock)) for m in model.modules())
    assert sum(isinstance(m, SEModule) for m in model.modules()) == blocks
    assert_same(model, reference, images)


@pytest.mark.parametrize('norm_layer', [
    GroupNorm, LayerNorm2d, nn.SyncBatchNorm, lambda c, **_: FrozenBatchNorm2d(c),
    partial(nn.BatchNorm2d, affine=False)],
    ids=['GroupNorm', 'LayerNorm2d', 'SyncBatchNorm', 'FrozenBatchNorm2d', 'BatchNorm2d, no weight'])
def test_any_norm(insert_, images, norm_layer):
    model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=10, norm_layer=norm_layer, zero_init_last=False)
    for module in model.modules():
        if getattr(module, 'weight', None) is not None and module.weight.ndim == 1:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    model.eval()  # SyncBatchNorm has no CPU kernel for training
    expected = model(images)
    assert torch.equal(insert_(model)(images), expected)


def test_on_meta_and_features_only(insert_):
    """And parameters, so an optimizer's state, stand in the order of timm's seresnet50."""
    model = insert_(timm.create_model('resnet50', device='meta'))
    assert all(p.is_meta for p in se_parameters(model))
    twin = timm.create_model('seresnet50', device='meta')
    assert [n.replace('.se_standard.', '.se.') for n, _ in model.named_parameters()] == [
        n for n, _ in twin.named_parameters()]
    features = insert_(timm.create_model('resnet18', features_only=True))
    assert sum(isinstance(m, SEModule) for m in features.modules()) == 8


def test_hooks_and_names_of_torchvisions_relu_stay(insert_, images):
    model = torchvision.models.resnet50(weights=None).eval()
    calls = []
    model.layer2[1].relu.register_forward_hook(lambda *_: calls.append(1))
    nodes = ['layer1.0.relu', 'layer1.0.relu_1', 'layer1.0.relu_2', 'layer4.2.relu_2']
    with torch.no_grad():
        expected = create_feature_extractor(copy.deepcopy(model), nodes)(images)
        calls.clear()
        insert_(model)(images)
        assert len(calls) == 3
        found = create_feature_extractor(model, nodes)(images)
    assert all(torch.equal(found[name], expected[name]) for name in nodes)


def with_forward(model):
    model.layer3[0].forward = model.layer3[0].forward
    return model


def compiled_in_place(model):
    model.compile(backend='eager')
    return nn.ModuleDict({'net': model})


def with_a_block_twice(model):
    model.layer1[1] = model.layer1[2]
    return model


def with_a_wrapped_convolution(model):
    model.layer2[0].conv1 = nn.Sequential(model.layer2[0].conv1)
    return model


def with_its_last_stage_gone(model):
    model.layer4 = nn.Identity()
    return nn.ModuleDict({'backbone': model})


def with_parametric_relus(model):
    model = torchvision.models.resnet18()
    model.layer2[0].relu = nn.PReLU()
    return model


REFUSED = {
    'a ReLU with weights': (with_parametric_relus, 'layer2.0.relu is a PReLU'),
    'a block twice': (with_a_block_twice, 'Two of the blocks are one module'),
    'a wrapped convolution': (with_a_wrapped_convolution, 'layer2.0.conv1 is a Sequential'),
    'twice': (lambda m: timm.create_model('se_resnet50_patch'), 'layer1.0 has SE already'),
    "timm's seresnet50": (lambda m: timm.create_model('seresnet50'), 'layer1.0.se is a SEModule'),
    'one of two': (lambda m: nn.ModuleList([m, timm.create_model('ecaresnet50t')]), '1.layer1.0.se is a EcaModule'),
    'averaged': (AveragedModel, 'wrapped in a AveragedModel'),
    'wrapped': (lambda m: nn.ModuleDict({'net': nn.DataParallel(m)}), 'wrapped in a DataParallel'),
    'compiled': (lambda m: torch.compile(m, backend='eager'), 'before torch.compile()'),
    'compiled in place': (compiled_in_place, 'before torch.compile()'),
    'scripted': (torch.jit.script, 'before torch.jit.script()'),
    'inference form': (lambda m: timm.utils.reparameterize_model(timm.create_model('se_resnet50_patch').eval()),
                       'layer1.0 is of the inference form'),
    'own forward': (with_forward, 'layer3.0 has a forward of its own'),
    'no ResNet': (lambda m: timm.create_model('mobilenetv3_small_050'), 'The MobileNetV3 holds no ResNet'),
    'another ResNet of timm': (lambda m: timm.create_model('resnetv2_18'), 'resnetv2.PreActBasic). No other class'),
    'a subclass': (lambda m: torchvision.models.quantization.resnet18(weights=None), 'QuantizableBasicBlock'),
    'a stage gone': (with_its_last_stage_gone, 'the ResNet at backbone has no blocks in layer4'),
    'a stage of other blocks': (lambda m: timm.create_model('hrnet_w18_small'), 'no blocks in layer2'),
    'taken apart': (lambda m: nn.Sequential(*m.children()), 'before the ResNet is taken apart'),
    'taken apart by torch.fx': (lambda m: create_feature_extractor(m, ['layer2']), 'before create_feature_extractor()'),
}


def state(model):
    return copy.deepcopy(model.state_dict()), [(n, type(m)) for n, m in model.named_modules()]


@pytest.mark.filterwarnings('ignore:`torch.jit')
@pytest.mark.parametrize(('case', 'route'), by_turns(REFUSED))
def test_refused(insert_, plain, case):
    make, message = REFUSED[case]
    model = make(plain)
    before, modules = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        insert_(model)
    assert changed(model, before) == []
    assert state(model)[1] == modules


def test_a_reduction_that_does_not_divide_one_stage(insert_, plain):
    before, modules = state(plain)
    with pytest.raises(ValueError, match='does not divide the 512 channels'):
        insert_(plain, SEConfig(reduction=(16, 16, 16, 3)))
    assert changed(plain, before) == []
    assert state(plain)[1] == modules
