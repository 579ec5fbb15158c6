"""SE into any live timm ResNet; what it cannot go into is refused with the reason, and left as it was."""
import copy
import itertools
import pickle
import re
from functools import partial

import pytest
import timm
import torch
import torchvision
from helpers import changed, settle_, shake_
from timm.layers import BlurPool2d, GroupNorm, LayerNorm2d, convert_splitbn_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
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


@pytest.mark.parametrize(('name', 'position'), sorted(CASES))
def test_function_is_preserved(insert_, images, name, position):
    torch.manual_seed(0)
    model = settle_(timm.create_model(name, num_classes=10, **RESNETS[name]))
    reference = copy.deepcopy(model)
    insert_(model, SEConfig(reduction=4, position=position))
    blocks = sum(isinstance(m, (Bottleneck, BasicBlock)) for m in model.modules())
    assert sum(isinstance(m, SEModule) for m in model.modules()) == blocks
    assert_same(model, reference, images)


def test_resnet152(insert_, images):
    model = settle_(timm.create_model('resnet152', num_classes=10))
    expected = model(images)
    assert torch.equal(insert_(model)(images), expected)
    assert sum(isinstance(m, SEModule) for m in model.modules()) == 50


class Scale(nn.BatchNorm2d):
    """A norm that does more than normalise."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.act = nn.Sigmoid()

    def forward(self, x):
        return self.act(super().forward(x))


@pytest.mark.parametrize('norm_layer', [
    GroupNorm, LayerNorm2d, nn.SyncBatchNorm, lambda c, **_: FrozenBatchNorm2d(c),
    partial(nn.InstanceNorm2d, affine=True), Scale, partial(nn.InstanceNorm2d, affine=False),
    partial(nn.BatchNorm2d, affine=False)],
    ids=['GroupNorm', 'LayerNorm2d', 'SyncBatchNorm', 'FrozenBatchNorm2d', 'InstanceNorm2d', 'activation',
         'InstanceNorm2d, no weight', 'BatchNorm2d, no weight'])
def test_any_norm(insert_, images, norm_layer):
    model = ResNet(Bottleneck, (1, 1, 1, 1), num_classes=10, norm_layer=norm_layer, zero_init_last=False)
    for module in model.modules():
        if getattr(module, 'weight', None) is not None and module.weight.ndim == 1:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    model.eval()  # SyncBatchNorm has no CPU kernel for training
    expected = model(images)
    assert torch.equal(insert_(model)(images), expected)


def test_split_batch_norm(insert_, plain, images):
    """What train.py --split-bn makes, with norms of their own for a part of each training batch."""
    model = convert_splitbn_model(plain, num_splits=2)
    reference = copy.deepcopy(model)
    assert_same(insert_(model), reference, images)


@pytest.mark.parametrize('name', ['resnet18', 'resnet26d'])
@pytest.mark.parametrize('strict', [True, False])
def test_loads_the_weights_of_the_plain_network(insert_, images, name, strict):
    """Into a live model too, a copy of it, and what holds it."""
    plain = settle_(timm.create_model(name, num_classes=10))
    expected = plain(images)
    live = insert_(timm.create_model(name, num_classes=10)).eval()
    copied, wrapped = (pickle.loads(pickle.dumps(copy.deepcopy(live))) for _ in range(2))
    live.load_state_dict(plain.state_dict(), strict=strict)
    copied.load_state_dict(plain.state_dict(), strict=strict)
    nn.DataParallel(wrapped).load_state_dict(nn.DataParallel(plain).state_dict(), strict=strict)
    assert all(torch.equal(m(images), expected) for m in (live, copied, wrapped))
    shaken = shake_(copy.deepcopy(live))
    live.load_state_dict(shaken.state_dict(), strict=strict)
    assert torch.equal(live(images), shaken(images))


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


def test_aliases_are_no_second_use(insert_, plain, images):
    """Names by which a user holds on to a norm or its weight."""
    norm, expected = plain.layer1[0].bn3, plain(images)
    plain.layer1[0].last = plain.watched = norm
    plain.layer1[0].norms = nn.ModuleList([norm])
    plain.weights = nn.ParameterList([norm.weight])
    assert torch.equal(insert_(plain)(images), expected)


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


REFUSED = {
    'a block twice': (with_a_block_twice, 'Two of the blocks are one module'),
    'a wrapped convolution': (with_a_wrapped_convolution, 'layer2.0.conv1 is a Sequential; expected a convolution'),
    'twice': (lambda m: timm.create_model('se_resnet50_patch'), 'layer1.0 has SE already'),
    'another attention': (lambda m: timm.create_model('ecaresnet50t'), 'layer1.0.se is a EcaModule'),
    "timm's seresnet50": (lambda m: timm.create_model('seresnet50'), 'layer1.0.se is a SEModule'),
    'torchvision': (lambda m: torchvision.models.resnet50(weights=None), 'torchvision.models.resnet.Bottleneck'),
    'no ResNet': (lambda m: timm.create_model('mobilenetv3_small_050'), 'MobileNetV3 has no blocks in layer1'),
    'wrapped': (nn.DataParallel, 'wrapped in a DataParallel'),
    'compiled': (lambda m: torch.compile(m, backend='eager'), 'put SE in before torch.compile()'),
    'compiled in place': (compiled_in_place, 'put SE in before torch.compile()'),
    'inference form': (lambda m: timm.utils.reparameterize_model(timm.create_model('se_resnet50_patch').eval()),
                       'layer1.0 is of the inference form'),
    'own forward': (with_forward, 'layer3.0 has a forward of its own'),
}


@pytest.mark.parametrize('case', REFUSED)
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
    with pytest.raises(ValueError, match='does not divide the 2048 channels'):
        insert_(plain, SEConfig(reduction=(16, 16, 16, 3)))
    assert changed(plain, before) == []
