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
from torchvision.models._utils import IntermediateLayerGetter
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


def test_frozen_model_stays_frozen_and_se_learns(insert_, plain, images):
    """Train SE and the head only: two lines, and the backbone is the same to the bit afterwards."""
    plain.requires_grad_(False)
    expected = plain(images)
    insert_(plain)
    assert torch.equal(plain(images), expected)
    before = copy.deepcopy(plain.state_dict())

    trained = [*se_parameters(plain), *plain.get_classifier().requires_grad_().parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        plain.eval()(images).square().sum().backward()  # eval: BatchNorm statistics are part of the backbone
        optimizer.step()

    assert set(changed(plain, before)) == {
        k for k in before if '.se_standard.' in k or k.startswith('fc.')}


def test_an_optimizer_from_before_the_surgery_goes_on(insert_, plain, images):
    """Its momentum is kept; with the new parameters added, one step moves them all."""
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    plain.train()(images).square().sum().backward()
    optimizer.step()
    weight = plain.layer1[0].conv1.weight
    momentum = optimizer.state[weight]['momentum_buffer'].clone()

    insert_(plain)
    optimizer.add_param_group({'params': se_parameters(plain)})
    optimizer.zero_grad()
    before = copy.deepcopy(plain.state_dict())
    plain(images).square().sum().backward()
    optimizer.step()

    torch.testing.assert_close(optimizer.state[weight]['momentum_buffer'], 0.9 * momentum + weight.grad)
    still = {k for k, _ in plain.named_parameters()} - set(changed(plain, before))
    assert still == {k for k in before if '.se_standard.fc1.' in k}, 'fc1 has no gradient as long as fc2 is zero'


def test_on_meta_and_shared_blocks(insert_):
    model = insert_(timm.create_model('resnet50', device='meta'))
    assert all(p.is_meta for p in se_parameters(model))
    features = insert_(timm.create_model('resnet18', features_only=True))
    assert sum(isinstance(m, SEModule) for m in features.modules()) == 8


def test_a_block_that_goes_by_two_names(insert_, plain, images):
    """Both names get the block with SE, and a ResNet that goes by two names is one."""
    plain.layers = nn.ModuleList(b for i in (1, 2, 3, 4) for b in plain.get_submodule(f'layer{i}'))
    body = IntermediateLayerGetter(plain, {'layer2': 'out'})  # it has the first two stages, and they are the plain's
    model = nn.ModuleDict({'body': body, 'backbone': plain})
    expected = plain(images), body(images)['out']
    insert_(model)
    assert len(se_parameters(model)) == 4 * 16
    assert all(b is plain.get_submodule(f'layer{i}')[j] for b, (i, j) in zip(plain.layers, [
        (i, j) for i, depth in enumerate((3, 4, 6, 3), start=1) for j in range(depth)], strict=True))
    assert torch.equal(plain(images), expected[0])
    assert torch.equal(body(images)['out'], expected[1])


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
    return model


def with_a_block_twice(model):
    model.layer1[1] = model.layer1[2]
    return model


def with_a_wrapped_convolution(model):
    model.layer2[0].conv1 = nn.Sequential(model.layer2[0].conv1)
    return model


def with_its_last_stage_gone(model):
    model.layer4 = nn.Identity()
    return nn.ModuleDict({'backbone': model})


def foreign(name, block_name):
    """A network of a library that is not installed here, by the names of its classes."""
    package, _, kind = name.rpartition('.')
    block = type(block_name, (nn.Module,), {'__module__': f'{package}.resnet'})()
    block.conv1, block.conv2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    network = type(kind, (nn.Module,), {'__module__': package})()
    network.layer1 = nn.Sequential(block)
    return nn.ModuleDict({'backbone': network})


def with_parametric_relus(model):
    model = torchvision.models.resnet18()
    model.layer2[0].relu = nn.PReLU()
    return model


REFUSED = {
    'a ReLU with weights': (with_parametric_relus, 'layer2.0.relu is a PReLU, which has weights'),
    'averaged': (AveragedModel, 'wrapped in a AveragedModel'),
    'a block twice': (with_a_block_twice, 'Two of the blocks are one module'),
    'a wrapped convolution': (with_a_wrapped_convolution, 'layer2.0.conv1 is a Sequential; expected a convolution'),
    'twice': (lambda m: timm.create_model('se_resnet50_patch'), 'layer1.0 has SE already'),
    'another attention': (lambda m: timm.create_model('ecaresnet50t'), 'layer1.0.se is a EcaModule'),
    "timm's seresnet50": (lambda m: timm.create_model('seresnet50'), 'layer1.0.se is a SEModule'),
    'wrapped': (nn.DataParallel, 'wrapped in a DataParallel'),
    'compiled': (lambda m: torch.compile(m, backend='eager'), 'put SE in before torch.compile()'),
    'compiled in place': (compiled_in_place, 'put SE in before torch.compile()'),
    'inference form': (lambda m: timm.utils.reparameterize_model(timm.create_model('se_resnet50_patch').eval()),
                       'layer1.0 is of the inference form'),
    'own forward': (with_forward, 'layer3.0 has a forward of its own'),
    'no ResNet': (lambda m: timm.create_model('mobilenetv3_small_050'),
                  'The MobileNetV3 holds no ResNet that SE can go into: looked for layer1 to layer4, each block in '
                  'them a Bottleneck or BasicBlock of timm.models.resnet or torchvision.models.resnet; found conv'),
    'another ResNet of timm': (lambda m: timm.create_model('resnetv2_18'),
                               'found stages.0.blocks.0 (a timm.models.resnetv2.PreActBasic). No other class will do'),
    'HRNet': (lambda m: timm.create_model('hrnet_w18_small'), 'the HighResolutionNet has no blocks in layer2; name'),
    'quantizable': (lambda m: torchvision.models.quantization.resnet18(weights=None),
                    'layer1.0 is a torchvision.models.quantization.resnet.QuantizableBasicBlock; expected a Bottleneck '
                    'or BasicBlock of timm.models.resnet or torchvision.models.resnet, and no subclass'),
    'detectron2': (lambda m: foreign('detectron2.modeling.backbone.ResNet', 'BottleneckBlock'),
                   'found backbone.layer1.0 (a detectron2.modeling.backbone.resnet.BottleneckBlock). No other class '
                   "will do, since its forward may be another. Where its library takes networks of timm by name, give "
                   "it 'se_resnet50_replace' with features_only=True (docs/ecosystem.md)"),
    'mmdetection': (lambda m: foreign('mmdet.models.backbones.ResNet', 'Bottleneck'),
                    'found backbone.layer1.0 (a mmdet.models.backbones.resnet.Bottleneck). No other class will do'),
    'a stage gone': (with_its_last_stage_gone, 'the ResNet at backbone has no blocks in layer4; name'),
    'taken apart': (lambda m: nn.Sequential(*m.children()),
                    'found 4.0 (a timm.models.resnet.Bottleneck). Its blocks do not stand in the ResNet\'s layers'),
    'taken apart by torch.fx': (lambda m: create_feature_extractor(m, ['layer2']), 'before create_feature_extractor()'),
    'wrapped inside': (lambda m: nn.ModuleDict({'net': nn.DataParallel(m)}), 'wrapped in a DataParallel'),
    'compiled inside': (lambda m: nn.ModuleDict({'net': compiled_in_place(m)}), 'put SE in before torch.compile()'),
    'one of two': (lambda m: nn.ModuleList([m, timm.create_model('ecaresnet50t')]), '1.layer1.0.se is a EcaModule'),
}


@pytest.mark.parametrize(('case', 'route'), by_turns(REFUSED))
def test_refused(insert_, plain, case):
    make, message = REFUSED[case]
    model = make(plain)
    before, types = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=re.escape(message)):
        insert_(model)
    assert changed(model, before) == []
    assert [type(m) for m in model.modules()] == types


@pytest.mark.filterwarnings('ignore:`torch.jit')
def test_a_scripted_model_is_refused(insert_, plain):
    with pytest.raises(ValueError, match=r'put SE in before torch\.jit\.script'):
        insert_(torch.jit.script(plain))


def test_a_reduction_that_does_not_divide_one_stage(insert_, plain):
    before = copy.deepcopy(plain.state_dict())
    with pytest.raises(ValueError, match='does not divide the 512 channels'):
        insert_(plain, SEConfig(reduction=(16, 16, 16, 3)))
    assert changed(plain, before) == []
