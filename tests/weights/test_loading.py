"""Any way in: a plain ResNet-50's weights are mapped, weights with SE are loaded as they are."""
import copy

import pytest
import timm
import torch
from helpers import NARROW, changed, shake_
from safetensors.torch import save_file
from timm.models import load_checkpoint

from timm_se50 import map_resnet_weights

PREFIXES = ['module.', '_orig_mod.', 'model.', 'module._orig_mod.', '_orig_mod.module.']


@pytest.fixture
def model(route):
    return timm.create_model(f'se_resnet50_{route}', **NARROW).eval()


@pytest.fixture(scope='module')
def trained_weights():
    """Weights of an SE model that is not neutral, 1000 classes."""
    torch.manual_seed(0)
    return shake_(timm.create_model('se_resnet50_replace', **NARROW)).state_dict()


@pytest.mark.parametrize(('features_only', 'mode'), [
    (False, torch.enable_grad), (True, torch.enable_grad), (False, torch.inference_mode)])
def test_made_from_trained_weights(route, trained_weights, tmp_path, features_only, mode):
    save_file(trained_weights, tmp_path / 'model.safetensors')
    with mode():
        model = timm.create_model(
            f'se_resnet50_{route}', pretrained=True, features_only=features_only,
            pretrained_cfg_overlay=dict(file=str(tmp_path / 'model.safetensors')), **NARROW)
    head = ('fc.',) if features_only else ()
    assert changed(model, {k: v for k, v in trained_weights.items() if not k.startswith(head)}) == []


def test_create_with_checkpoint_path(route, plain_file, plain, images):
    model = timm.create_model(f'se_resnet50_{route}', checkpoint_path=str(plain_file), **NARROW).eval()
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize('prefix', PREFIXES)
def test_prefixes(model, plain_weights, plain, images, prefix):
    model.load_state_dict(map_resnet_weights({prefix + k: v for k, v in plain_weights.items()}, model))
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize('prefix', ['', *PREFIXES])
def test_weights_with_se_are_loaded_as_they_are(model, trained_weights, prefix):
    mapped = map_resnet_weights({prefix + k: v for k, v in trained_weights.items()}, model)
    assert mapped.keys() == trained_weights.keys()
    assert all(mapped[k] is v for k, v in trained_weights.items())
    model.load_state_dict(mapped)
    assert changed(model, trained_weights) == []


def test_a_training_checkpoint_of_timms(route, plain_weights, plain, images, tmp_path):
    """What train.py writes: `--initial-checkpoint` and validate.py's `--checkpoint` read it by `load_checkpoint`."""
    path = tmp_path / 'model_best.pth.tar'
    torch.save(dict(epoch=3, arch='resnet50', state_dict={f'module.{k}': v for k, v in plain_weights.items()}), path)
    model = timm.create_model(f'se_resnet50_{route}', **NARROW).eval()
    load_checkpoint(model, str(path))
    assert torch.equal(model(images), plain(images))


def test_torchvision_weights(route, images):
    torchvision = pytest.importorskip('torchvision')
    model = timm.create_model(f'se_resnet50_{route}').eval()
    source = torchvision.models.resnet50(weights=None).eval()
    torch.nn.init.normal_(source.layer1[0].bn3.running_mean)
    model.load_state_dict(source.state_dict())
    assert torch.equal(model(images), source(images))


def test_files_from_before_num_batches_tracked(model, plain_weights, plain, images):
    model.load_state_dict({k: v for k, v in plain_weights.items() if not k.endswith('num_batches_tracked')})
    assert torch.equal(model(images), plain(images))


def test_the_given_state_dict_is_not_changed(model, plain_weights):
    given = copy.deepcopy(plain_weights)
    keys, tensors = list(given), {k: v for k, v in given.items()}
    before = copy.deepcopy(model.state_dict())
    mapped = map_resnet_weights(given, model)
    assert changed(model, before) == []
    model.load_state_dict(given)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert list(given) == keys
    assert all(given[k] is v and torch.equal(v, plain_weights[k]) for k, v in tensors.items())
    assert all(mapped[k] is v for k, v in tensors.items())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('strict', [True, False])
def test_assigned_to_a_model_on_meta(route, plain_weights, plain, images, dtype, strict):
    """The SE modules get weights, where the others are and in their dtype."""
    with torch.device('meta'):
        model = timm.create_model(f'se_resnet50_{route}', **NARROW)
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in plain_weights.items()}
    model.load_state_dict(weights, strict=strict, assign=True)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not any(t.is_meta for t in model.state_dict().values())
    assert model.layer1[0].se_standard.fc1.weight.std() > 0.1
    assert torch.equal(model.eval()(images.to(dtype)), plain.to(dtype)(images.to(dtype)))
