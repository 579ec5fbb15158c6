"""`timm-se50 convert`: a ResNet in any file becomes a folder that computes the same."""
import json
import re

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner
from helpers import settle_

from timm_se50.checkpoint import convert_checkpoint
from timm_se50.cli.main import main


@pytest.fixture(scope='module')
def resnet():
    """timm's resnet50 with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    return settle_(timm.create_model('resnet50', num_classes=7))


@pytest.fixture
def file(resnet, tmp_path):
    torch.save(resnet.state_dict(), tmp_path / 'w.pth')
    return tmp_path / 'w.pth'


def _run(*args, code=0):
    result = CliRunner().invoke(main, ['convert', *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def _assert_same_function(folder, resnet):
    model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    x = torch.randn(2, resnet.conv1.in_channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), resnet(x))
    return model


def _training_checkpoint(state):
    other = {k: torch.zeros_like(v) for k, v in state.items()}
    averaged = {f'module.{k}': v for k, v in state.items()}
    return {'epoch': 3, 'state_dict': other, 'state_dict_ema': averaged, 'optimizer': {'state': {}}}


@pytest.mark.parametrize(('name', 'write'), [
    ('w.safetensors', safetensors.torch.save_file),
    ('w.pt', lambda state, path: torch.save({f'model.{k}': v for k, v in state.items()}, path)),
    ('w.pth.tar', lambda state, path: torch.save(_training_checkpoint(state), path)),
])
def test_any_file_of_a_resnet50(resnet, tmp_path, name, write):
    write(resnet.state_dict(), tmp_path / name)
    result = _run(tmp_path / name, tmp_path / 'out')
    assert 'Recognised a ResNet-50.' in result.stdout
    assert 'se_resnet50_replace with 7 classes' in result.stdout
    _assert_same_function(tmp_path / 'out', resnet)


@pytest.mark.parametrize(('convs', 'norms'), [
    (torch.float16, torch.float32), (torch.float64, torch.float32), (torch.bfloat16, torch.bfloat16)], ids=str)
def test_no_digit_is_lost_and_none_made_up(convs, norms, resnet, tmp_path):
    state = {k: v.to(convs if v.ndim == 4 else norms) for k, v in resnet.state_dict().items()}
    torch.save(state, tmp_path / 'w.pth')
    convert_checkpoint(tmp_path / 'w.pth', tmp_path / 'out')
    saved = safetensors.torch.load_file(tmp_path / 'out' / 'model.safetensors')
    dtype = torch.promote_types(convs, norms)
    assert {v.dtype for v in saved.values()} == {dtype, torch.int64}
    assert all(torch.equal(saved[k], v.to(dtype)) for k, v in state.items() if not k.endswith('num_batches_tracked'))


def test_options_reach_the_model(resnet, file, tmp_path):
    result = _run(file, tmp_path / 'out', '--route', 'patch', '--stages', '3,4', '--reduction', '8,4',
                  '--position', 'identity', '--json')
    assert json.loads(result.stdout) == {
        'recognised': 'a ResNet-50', 'model': 'se_resnet50_patch', 'num_classes': 7, 'new_head': False,
        'folder': str(tmp_path / 'out')}
    model = _assert_same_function(tmp_path / 'out', resnet)
    assert model.layer2[0].__class__.__name__ == 'Bottleneck'
    assert model.layer3[5].se_position == 'identity'
    assert model.layer4[0].se_identity.fc1.weight.shape[:2] == (512, 2048)


@pytest.mark.parametrize('name', ['resnet50', 'resnet101d'])
@pytest.mark.parametrize('tagged', [True, False])
def test_a_tag_brings_preprocessing_license_and_origin(name, tagged, tmp_path):
    torch.manual_seed(0)
    plain = settle_(timm.create_model(name, num_classes=5))
    safetensors.torch.save_file(plain.state_dict(), tmp_path / 'w.safetensors')
    tag = 'tv2_in1k' if name == 'resnet50' else timm.get_pretrained_cfg(name).tag
    cfg = timm.get_pretrained_cfg(f'{name}.{tag}')
    convert_checkpoint(tmp_path / 'w.safetensors', tmp_path / 'out', model=f'{name}.{tag}' if tagged else name)
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), plain(x))
    found, card = model.pretrained_cfg, (tmp_path / 'out' / 'README.md').read_text()
    if tagged:
        assert (found['crop_pct'], found['license']) == (cfg.crop_pct, cfg.license)
        assert f'base_model: {cfg.hf_hub_id}' in card
    else:
        assert not any(found.get(key) for key in ('license', 'tag', 'hf_hub_id', 'origin_url', 'paper_ids'))
        assert 'base_model' not in card


def test_another_number_of_classes_has_a_new_head(resnet, file, tmp_path):
    result = _run(file, tmp_path / 'out', '--num-classes', 3)
    assert 'a new head of 3 classes' in result.stdout
    model = timm.create_model(f'local-dir:{tmp_path / "out"}', pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(x).shape == (2, 3)
        assert torch.equal(model.forward_features(x), resnet.forward_features(x))


def test_se_weights_are_kept(tmp_path):
    twin = settle_(timm.create_model('seresnet50', num_classes=2, in_chans=1))
    safetensors.torch.save_file(twin.state_dict(), tmp_path / 'w.safetensors')
    done = convert_checkpoint(tmp_path / 'w.safetensors', tmp_path / 'out')
    assert done['recognised'].startswith('an SE-ResNet-50 (se_stages=(1, 2, 3, 4), se_reduction=16')
    _assert_same_function(tmp_path / 'out', twin)


def _weights(name='resnet50', **changes):
    return lambda path: torch.save(timm.create_model(name, num_classes=1).state_dict() | changes, path)


@pytest.mark.parametrize(('write', 'message'), [
    (lambda path: None, 'is no file; expected one with weights'),
    (lambda path: path.mkdir(), 'is no file; expected one with weights'),
    (lambda path: path.write_text('hello'), 'cannot be read'),
    (lambda path: path.write_bytes(b''), 'cannot be read'),
    (lambda path: torch.save(torch.nn.Linear(1, 1), path), 'weights_only'),
    (lambda path: torch.save({'optimizer': {'state': {}}, 'epoch': 1}, path), "an optimizer's state"),
    (_weights('resnet101'), 'a ResNet-101'),
    (_weights('resnet18'), 'a ResNet-18'),
    (_weights('resnet50d'), 'ResNet-50-D'),
    (_weights('mobilenetv3_small_050'), 'no ResNet'),
    (_weights(**{'conv1.weight': torch.zeros(64, 0, 7, 7)}), ''),
    (_weights(**{'fc.weight': torch.tensor(1.0)}), ''),
    (_weights(**{'fc.weight': torch.zeros(7, 3)}), r'fc\.weight'),
    (_weights(**{'bn1.weight': torch.zeros(64, dtype=torch.float8_e4m3fn)}), 'Float8'),
])
def test_other_files_are_refused(tmp_path, write, message):
    path = tmp_path / 'w.pth'
    write(path)
    result = _run(path, tmp_path / 'out', code=1)
    assert re.search(f'Error: .*{re.escape(str(path))}.*{message}', result.output), result.output
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('arguments', 'code', 'message'), [
    (['--route', 'both'], 2, "'both' is not one of"),
    (['--num-classes', '-1'], 2, '-1 is not in the range'),
    (['--stages', '3;4'], 2, "'3;4': expected whole numbers"),
    (['--model', 'resnet50.no_such'], 1, r'Unknown model \(resnet50\.no_such\).*Near it: resnet50\.'),
    (['--model', 'resnet5'], 1, r'Unknown model \(resnet5\).*Near it: .*resnet50'),
    (['--model', 'resnetv2_50'], 1, "model='resnetv2_50' is a .*expected one of timm.models.resnet"),
    (['--reduction', '7'], 1, '^Error: se_reduction=7: does not divide'),
])
def test_bad_options_are_named(arguments, code, message, file, tmp_path):
    assert re.search(message, _run(file, tmp_path / 'out', *arguments, code=code).output)
    assert not (tmp_path / 'out').exists()
