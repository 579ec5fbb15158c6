"""Ours and timm's seresnet50 are one network up to factors of two, so their files go both ways exactly."""
import copy

import pytest
import timm
import torch
from helpers import INSERT, NARROW, changed, settle_, shake_
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d
from torch import nn

import timm_se50
from timm_se50 import map_resnet_weights, save_checkpoint
from timm_se50.weights import seresnet50_weights


@pytest.fixture(scope='module')
def twin():
    torch.manual_seed(0)
    return shake_timm_(settle_(timm.create_model('seresnet50', num_classes=10, **NARROW)))


def shake_timm_(model):
    """Gates far from 0.5, which would hide a wrong factor."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if '.se.' in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('strict', [True, False])
def test_timms_weights_into_ours_and_back(route, twin, images, strict, dtype):
    twin = copy.deepcopy(twin).to(dtype)
    model = timm.create_model(f'se_resnet50_{route}', num_classes=10, dtype=dtype, **NARROW).eval()
    result = model.load_state_dict(twin.state_dict(), strict=strict)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert changed(twin, seresnet50_weights(model)) == []
    x = images.to(dtype)
    with torch.no_grad():
        assert torch.equal(model(x), twin(x))
        assert torch.equal(model.train()(x), copy.deepcopy(twin).train()(x))

    model.eval().load_state_dict(shake_(copy.deepcopy(model)).state_dict())
    other = timm.create_model('seresnet50', num_classes=10, dtype=dtype, **NARROW).eval()
    other.load_state_dict(seresnet50_weights(model))
    with torch.no_grad():
        assert torch.equal(other(x), model(x))
        assert not torch.equal(other(x), twin(x))


def test_in_float16_it_is_exact_but_for_subnormal_numbers(twin):
    """A quarter of what is below 2^-12 is subnormal there, and keeps 24 binary places: 2^-25 off at most, and so the
    number that comes back is 2^-23 off."""
    theirs = {k: v.half() if v.is_floating_point() else v for k, v in twin.state_dict().items()}
    model = timm.create_model('se_resnet50_patch', num_classes=10, dtype=torch.float16, **NARROW)
    model.load_state_dict(theirs)
    for key, value in seresnet50_weights(model).items():
        same = value == theirs[key]
        assert (same | (theirs[key].abs() < 2 ** -12)).all(), key
        assert (value.double() - theirs[key].double()).abs().max() <= 2 ** -23
        assert same.all() or key.endswith(('se.fc2.weight', 'se.fc2.bias', 'bn3.weight', 'bn3.bias'))


def test_one_training_step(route, twin, images):
    """The gradient of every weight that both have by one number is the same, the norm's, with its factor, likewise."""
    model = timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW)
    model.load_state_dict(twin.state_dict())
    other = copy.deepcopy(twin)
    for m in (model, other):
        m.zero_grad()
        m.train()(images).square().sum().backward()
    theirs = {k: p.grad for k, p in other.named_parameters()}
    factors = {'bn3.weight': 2, 'bn3.bias': 2, 'fc1.weight': 0.5, 'fc2.weight': 4, 'fc2.bias': 4}
    for name, parameter in model.named_parameters():
        factor = next((f for end, f in factors.items() if name.endswith(end)), 1)
        assert torch.equal(parameter.grad, theirs[name.replace('se_standard', 'se')] * factor), name


def test_a_trained_tag(route, twin, images, tmp_path):
    """The weights themselves are on the Hub, out of reach here: the file is this twin's, the rest the tag's."""
    torch.save(twin.state_dict(), tmp_path / 'seresnet50.pth')
    model = timm.create_model(
        f'se_resnet50_{route}.se_ra2_in1k', pretrained=True, num_classes=10, **NARROW,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'seresnet50.pth'), num_classes=10)).eval()
    with torch.no_grad():
        assert torch.equal(model(images), twin(images))


@pytest.mark.parametrize('route_in', ['created', 'replace', 'patch'])
def test_saved_portable(twin, images, tmp_path, route_in):
    if route_in == 'created':
        model = timm.create_model('se_resnet50_patch', num_classes=10, **NARROW)
    else:
        model = INSERT[route_in](timm.create_model('resnet50', num_classes=10, **NARROW))
    model.load_state_dict(twin.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(images), twin(images))
    save_checkpoint(shake_(model), tmp_path, portable=True)
    other = timm.create_model('seresnet50', num_classes=10, **NARROW).eval()
    other.load_state_dict(load_file(tmp_path / 'model.safetensors'))
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert type(again).__module__.startswith('timm.')
    with torch.no_grad():
        assert torch.equal(other(images), model(images))
        assert torch.equal(again(images), model(images))


@pytest.fixture(scope='module')
def real():
    """The weights of a seresnet50 of the real width, which is recognised by it."""
    return timm.create_model('seresnet50', num_classes=10).state_dict()


def test_any_other_setting_is_not_taken_for_it(route, real):
    """Nor a norm with an activation in it: half its weight and bias is not half its output."""
    for settings in (dict(se_reduction=8), dict(se_stages=(3, 4)), dict(se_position='post'),
                     dict(norm_layer=BatchNormAct2d)):
        model = timm.create_model(f'se_resnet50_{route}', num_classes=10, **settings)
        with pytest.raises(RuntimeError, match='The weights look like an SE-ResNet-50'):
            map_resnet_weights(real, model)


def test_the_module_by_itself_is_the_papers():
    """Gate sigmoid(fc2(relu(fc1(mean)))), random from the start, as timm's and as the original project's."""
    se = timm_se50.SEModule(64, reduction=4)
    assert not se.neutral
    assert se.fc2.weight.std() > 0.01
    x = torch.randn(2, 64, 7, 7)
    expected = se.fc2(se.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
    assert torch.equal(se(x), x * expected)
    torch.manual_seed(0)
    first = timm_se50.SEModule(64)
    torch.manual_seed(1)
    assert not torch.equal(first.fc1.weight, timm_se50.SEModule(64).fc1.weight), 'it follows the global seed'


@pytest.mark.parametrize('module', [nn.Identity(), timm_se50.SEModule(128)], ids=['none', "the paper's"])
def test_another_module_in_place_of_ours_is_not_mapped(twin, module):
    """Nothing is put into what is not ours."""
    model = timm.create_model('se_resnet50_patch', num_classes=10, **NARROW)
    model.layer1[0].se_standard = module
    with pytest.raises(RuntimeError, match=r"'layer1\.0\.se\.fc1\.\w+' is no key of the model"):
        map_resnet_weights(twin.state_dict(), model)
