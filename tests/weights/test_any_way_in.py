"""A plain network's weights on any way that people load them, none of which knows of SE: its logits, bit for bit."""
import copy

import pytest
import timm
import torch
from helpers import NARROW, changed, settle_, shake_
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torchvision.models._utils import IntermediateLayerGetter

from timm_se50 import map_resnet_weights


@pytest.fixture(params=[
    ('replace', 'standard'), ('patch', 'standard'), ('patch', 'pre'), ('replace', 'post'), ('patch', 'identity')],
    ids='-'.join)
def model(request):
    route, position = request.param
    return timm.create_model(f'se_resnet50_{route}', se_position=position, **NARROW).eval()


def updated(model, weights):
    state = model.state_dict()
    state.update(weights)
    model.load_state_dict(state)


def copied(model, weights):
    target = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for key, value in weights.items():
            target[key].copy_(value)


def replaced(model, weights):
    """Module by module, as quantisation and pruning tools swap layers."""
    plain = timm.create_model('resnet50', **NARROW)
    plain.load_state_dict(weights)
    for name, module in plain.eval().named_modules():
        if name and not any(True for _ in module.children()) and any(True for _ in module.parameters()):
            model.set_submodule(name, module)


def by_stage(model, weights):
    for name, child in model.named_children():
        child.load_state_dict({k.removeprefix(f'{name}.'): v for k, v in weights.items() if k.startswith(f'{name}.')})


def completed(model, weights):
    set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=False))


WAYS = {
    'load_state_dict': lambda model, weights: model.load_state_dict(weights),
    'not strict': lambda model, weights: model.load_state_dict(weights, strict=False),
    'assign': lambda model, weights: model.load_state_dict(copy.deepcopy(weights), assign=True),
    'update() of its own': updated,
    'copy_() by name': copied,
    'layers replaced': replaced,
    'stage by stage': by_stage,
    "FSDP's set_model_state_dict": completed,
    'in a container': lambda model, weights: nn.ModuleDict({'net': model}).load_state_dict(
        {f'net.{k}': v for k, v in weights.items()}),
}


@pytest.mark.parametrize('way', WAYS)
def test_way(model, plain, plain_weights, images, way):
    WAYS[way](model, plain_weights)
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize('way', ['load_state_dict', 'assign', 'stage by stage', 'in a container'])
def test_a_trained_model_is_neutral_again(model, plain, plain_weights, images, way):
    WAYS[way](shake_(model), plain_weights)
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize('held', ['itself', 'in a container', 'features_only'])
def test_a_load_that_is_not_strict_replaces_what_the_file_has(route, plain_weights, held):
    """A newer backbone under trained SE: torch's own contract, on each way."""
    model = shake_(timm.create_model(f'se_resnet50_{route}', features_only=held == 'features_only', **NARROW))
    if held == 'in a container':
        model, plain_weights = nn.ModuleDict({'net': model}), {f'net.{k}': v for k, v in plain_weights.items()}
    before = copy.deepcopy(model.state_dict())
    result = model.load_state_dict(plain_weights, strict=False)
    assert result.missing_keys == [k for k in before if '.se_' in k]
    assert set(changed(model, before)) == {k for k in before if '.se_' not in k}
    assert all(torch.equal(v, plain_weights[k]) for k, v in model.state_dict().items() if '.se_' not in k)


def backbone(plain_weights):
    return {k: v for k, v in plain_weights.items() if not k.startswith('fc.')}


def test_a_backbone(route, plain, plain_weights, images):
    name = f'se_resnet50_{route}'
    features = timm.create_model(name, features_only=True, out_indices=[4], **NARROW)
    for model in (features, IntermediateLayerGetter(timm.create_model(name, **NARROW), {'layer4': 0})):
        model.load_state_dict(backbone(plain_weights))
        assert torch.equal(model.eval()(images)[0], plain.forward_features(images))


@pytest.mark.ecosystem
def test_encoder_of_segmentation_models(route, plain50, plain50_weights, images):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = smp.Unet(f'tu-se_resnet50_{route}', encoder_weights=None).eval()
    model.encoder.model.load_state_dict(backbone(plain50_weights))
    assert torch.equal(model.encoder(images)[-1], plain50.forward_features(images))


def test_norms_that_are_replaced_after_se_came_in(insert_, plain, images):
    """As Opacus' ModuleValidator.fix() does it: the same change of both networks keeps them equal."""
    model = insert_(copy.deepcopy(plain))
    for m in (model, plain):
        for name, norm in list(m.named_modules()):
            if isinstance(norm, nn.BatchNorm2d):
                m.set_submodule(name, nn.GroupNorm(min(32, norm.num_features), norm.num_features))
    assert torch.equal(model(images), plain(images))


def with_activations(model):
    for block in model.layer2:
        block.bn3 = nn.Sequential(block.bn3, nn.Sigmoid())


def with_shared_norms(model):
    model.layer3[1].bn3 = model.layer3[0].bn3
    model.layer4[1].bn3 = model.layer4[0].downsample[1]


@pytest.mark.parametrize('change', [with_activations, with_shared_norms])
def test_any_last_norm(insert_, plain, images, change):
    change(plain)
    expected = plain(images)
    assert torch.equal(insert_(plain)(images), expected)


@pytest.mark.parametrize('stages', [(4,), (3, 4)])
def test_a_file_with_se_in_some_stages_keeps_its_function(route, images, stages):
    torch.manual_seed(0)
    source = shake_(settle_(timm.create_model('se_resnet50_replace', se_stages=stages, num_classes=10, **NARROW)))
    model = shake_(timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW)).eval()
    model.load_state_dict(source.state_dict())
    assert torch.equal(model(images), source(images))


FOREIGN = ('se.fc.0', 'se_layer.fc1', 'se_block.fc1', 'attn.fc1', 'ca.fc1', 'se_post.fc1')


@pytest.mark.parametrize('name', FOREIGN)
def test_se_of_another_repository_is_not_taken_for_a_plain_network(route, plain_weights, name):
    """Mapped: refused by its name. Not strict: what torch says is missing and unexpected says so."""
    model = shake_(timm.create_model(f'se_resnet50_{route}', **NARROW))
    before = copy.deepcopy(model.state_dict())
    weights = dict(plain_weights)
    for i, depth in enumerate((3, 4, 6, 3), 1):
        weights |= {f'layer{i}.{j}.{name}.weight': torch.zeros(4, 64 * 2 ** i, 1, 1) for j in range(depth)}
    said = "se_position='post'" if name.startswith('se_post') else 'another attention, or SE in another form'
    with pytest.raises(RuntimeError, match=rf"'layer1\.0\.{name}\.weight' is no key of the model.*{said}"):
        map_resnet_weights(weights, model)
    assert changed(model, before) == []
    result = model.load_state_dict(weights, strict=False)
    assert sorted(result.missing_keys) == sorted(k for k in before if '.se_standard.' in k)
    assert sorted(result.unexpected_keys) == sorted(weights.keys() - plain_weights.keys())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if '.se_standard.' in k)
