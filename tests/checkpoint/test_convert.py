"""`timm-se50 convert`: a ResNet-50 in any file becomes a folder that computes the same."""
import json

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner

from timm_se50 import SEConfig
from timm_se50.checkpoint.convert import convert_checkpoint
from timm_se50.cli.main import main


@pytest.fixture(scope='module')
def resnet():
    """timm's resnet50 with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = timm.create_model('resnet50', num_classes=7, zero_init_last=False)
    model(torch.randn(4, 3, 64, 64))
    return model.eval()


def _run(*args, code=0):
    result = CliRunner().invoke(main, ['convert', *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def _assert_same_function(folder, resnet):
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), resnet(x))
    return model


def _prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


def _training_checkpoint(state):
    other = {k: torch.zeros_like(v) for k, v in state.items()}
    return {'epoch': 3, 'state_dict': other, 'state_dict_ema': _prefixed('module.', state), 'optimizer': {'state': {}}}


@pytest.mark.parametrize(('name', 'write'), [
    ('w.safetensors', safetensors.torch.save_file),
    ('w.pth', torch.save),
    ('w.pt', lambda state, path: torch.save(_prefixed('model.', state), path)),
    ('w.pth.tar', lambda state, path: torch.save(_training_checkpoint(state), path)),
])
def test_any_file_of_a_resnet50(resnet, tmp_path, name, write):
    write(resnet.state_dict(), tmp_path / name)
    result = _run(tmp_path / name, tmp_path / 'out')
    assert 'Recognised a ResNet-50.' in result.stdout
    assert 'se_resnet50_replace with 7 classes' in result.stdout
    _assert_same_function(tmp_path / 'out', resnet)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float64], ids=str)
def test_more_than_one_dtype(resnet, tmp_path, dtype):
    """Convolutions in one, norms in another: no digit of either is lost."""
    state = {k: v.to(dtype) * 1.1 if v.ndim == 4 else v for k, v in resnet.state_dict().items()}
    torch.save(state, tmp_path / 'w.pth')
    convert_checkpoint(tmp_path / 'w.pth', tmp_path / 'out')
    saved = safetensors.torch.load_file(tmp_path / 'out' / 'model.safetensors')
    assert torch.equal(saved['layer1.0.conv1.weight'], state['layer1.0.conv1.weight'].to(saved['fc.weight'].dtype))
    assert saved['fc.weight'].dtype == torch.promote_types(dtype, torch.float32)
    assert all(torch.equal(v, state[k]) for k, v in saved.items() if '.bn1.' in k)


def test_options_reach_the_model(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    result = _run(tmp_path / 'w.pth', tmp_path / 'out', '--route', 'patch', '--stages', '3,4', '--reduction', '8,4',
                  '--position', 'identity', '--json')
    assert json.loads(result.stdout) == {
        'recognised': 'a ResNet-50', 'model': 'se_resnet50_patch', 'num_classes': 7, 'new_head': False,
        'folder': str(tmp_path / 'out')}
    model = _assert_same_function(tmp_path / 'out', resnet)
    assert model.layer2[0].__class__.__name__ == 'Bottleneck'
    assert model.layer3[5].se_position == 'identity'
    assert model.layer4[0].se_identity.fc1.weight.shape[:2] == (512, 2048)


def test_tag_brings_preprocessing_license_and_origin(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    convert_checkpoint(tmp_path / 'w.pth', tmp_path / 'out', model='resnet50.tv2_in1k')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    cfg = timm.get_pretrained_cfg('resnet50.tv2_in1k')
    assert config['pretrained_cfg']['crop_pct'] == cfg.crop_pct
    assert config['pretrained_cfg']['license'] == cfg.license == 'bsd-3-clause'
    assert 'timm/resnet50.tv2_in1k' in (tmp_path / 'out' / 'README.md').read_text()


def test_without_a_tag_no_origin_is_claimed(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    convert_checkpoint(tmp_path / 'w.pth', tmp_path / 'out')
    card = (tmp_path / 'out' / 'README.md').read_text()
    assert 'base_model' not in card
    assert '_in1k' not in card
    cfg = json.loads((tmp_path / 'out' / 'config.json').read_text())['pretrained_cfg']
    assert not any(cfg.get(k) for k in ('license', 'tag', 'hf_hub_id', 'origin_url', 'paper_ids'))


def test_another_number_of_classes_has_a_new_head(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    result = _run(tmp_path / 'w.pth', tmp_path / 'out', '--num-classes', 3)
    assert 'a new head of 3 classes' in result.stdout
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(x).shape == (2, 3)
        assert torch.equal(model.forward_features(x), resnet.forward_features(x))


def test_se_weights_are_kept(tmp_path):
    twin = timm.create_model('seresnet50', num_classes=2, in_chans=1, zero_init_last=False).eval()
    safetensors.torch.save_file(twin.state_dict(), tmp_path / 'w.safetensors')
    done = convert_checkpoint(tmp_path / 'w.safetensors', tmp_path / 'out')
    assert done.recognised.startswith('an SE-ResNet-50 (se_stages=(1, 2, 3, 4), se_reduction=16')
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), twin(x))


def _other(name):
    return lambda path: torch.save(timm.create_model(name, num_classes=1).state_dict(), path)


@pytest.mark.parametrize(('write', 'message'), [
    (lambda path: None, 'there is no such file'),
    (lambda path: path.mkdir(), 'is a folder; expected a file'),
    (lambda path: path.write_text('no weights'), 'w.pth'),
    (lambda path: path.write_text('hello'), 'w.pth'),
    (lambda path: torch.save({'fc.weight': torch.tensor(1.0)}, path), "'conv1.weight' is missing"),
    (lambda path: path.write_bytes(b''), 'cannot be read'),
    (lambda path: torch.save(torch.zeros(2), path), 'cannot be read'),
    (lambda path: torch.save(torch.nn.Linear(1, 1), path), 'weights_only'),
    (lambda path: torch.save({'optimizer': {'state': {}}, 'epoch': 1}, path), "an optimizer's state"),
    (_other('resnet101'), 'a ResNet-101'),
    (_other('resnet18'), 'a ResNet-18'),
    (_other('resnet50d'), 'ResNet-50-D'),
    (_other('mobilenetv3_small_050'), 'no ResNet'),
])
def test_other_files_are_refused(tmp_path, write, message):
    path = tmp_path / 'w.pth'
    write(path)
    result = _run(path, tmp_path / 'out', code=1)
    [line] = result.output.splitlines()
    assert message in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('kwargs', 'message'), [
    ({'route': 'both'}, "route='both'"),
    ({'num_classes': -1}, 'num_classes=-1'),
    ({'model': 'resnet50.no_such'}, 'timm knows no such ResNet; expected one of resnet50.a1_in1k, '),
    ({'model': 'resnet5'}, 'timm knows no such ResNet; expected one of .*resnet50d'),
    ({'config': SEConfig(reduction=7)}, 'se_reduction=7: does not divide'),
])
def test_bad_arguments_are_named(resnet, tmp_path, kwargs, message):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / 'w.pth', tmp_path / 'out', **kwargs)
    assert not (tmp_path / 'out').exists()


def test_bad_option_is_named():
    result = _run('w.pth', 'out', '--stages', '3;4', code=2)
    assert "'3;4': expected whole numbers" in result.output
