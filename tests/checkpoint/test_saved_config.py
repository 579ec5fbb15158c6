"""A folder that is loaded by `timm.create_model('local-dir:...')`: its config.json may not drop weights in silence."""
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import changed
from safetensors.torch import load_file, save_file
from test_replacing import SMALL

from timm_se50 import save_checkpoint
from timm_se50.cli.main import main


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    return save_checkpoint(timm.create_model('se_resnet50_patch', **SMALL), tmp_path / 'm')


def edit(folder, part=None, **changes):
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    config |= {part: config[part] | changes} if part else changes
    path.write_text(json.dumps(config))


WRONG = {
    'more classes': (None, {'num_classes': 5}, r"'fc.weight' has shape \(2, 64\), and \(5, 64\) by the config"),
    'no classes': (None, {'num_classes': 0}, 'another network than model.safetensors holds'),
    'classes below zero': (None, {'num_classes': -1}, "'num_classes' is -1, and the network it describes has 1000"),
    'classes are null': (None, {'num_classes': None}, "'num_classes' is None, and the network it describes has 1000"),
    'classes in model_args': ('model_args', {'num_classes': 5}, "'num_classes' is 2, and the network .* has 5"),
    'classifier': ('pretrained_cfg', {'classifier': ['fc', 'layer4.0.conv1']}, "'classifier' in .*; expected 'fc'"),
    'first_conv': ('pretrained_cfg', {'first_conv': 'layer1.0.conv1'}, "'first_conv' in .*; expected 'conv1'"),
    'first_conv 5': ('pretrained_cfg', {'first_conv': 5}, "'first_conv' in pretrained_cfg is 5"),
    'label_offset': ('pretrained_cfg', {'label_offset': 1}, "'label_offset' in pretrained_cfg is 1"),
    'meta': ('model_args', {'device': 'meta'}, "'device' in model_args describes no network"),
    'not strict': ('model_args', {'pretrained_strict': False}, "'pretrained_strict' in model_args describes no netw"),
    'features': ('model_args', {'features_only': True}, "'features_only' in model_args describes no network"),
    'no channels': ('model_args', {'channels': []}, 'no network can be made of it: IndexError'),
    'one stage': ('model_args', {'layers': [1]}, 'no network can be made of it'),
    'another depth': ('model_args', {'layers': [1, 1, 2, 1]}, r"'layer3\.1\.conv1\.weight' is missing"),
    'more input channels': ('model_args', {'in_chans': 4}, r"'conv1.weight' has shape \(64, 3, .* and \(64, 4, "),
    'no input channels': ('model_args', {'in_chans': 0}, 'another network than model.safetensors holds|no network'),
    'huge': ('model_args', {'channels': [16000] * 4}, 'another network than model.safetensors holds'),
    'endless': ('model_args', {'layers': [10 ** 9] * 4}, "'layers' has 4000000000 blocks; expected at most 1000"),
    'reduction': ('model_args', {'se_reduction': 'x'}, "se_reduction='x'"),
    'another reduction': ('model_args', {'se_reduction': 8}, r"'layer1\.0\.se_standard\.fc1\.weight' has shape"),
    'activation': ('model_args', {'act_layer': 'nothing'}, "no network can be made of it: KeyError: 'nothing'"),
    'norm': ('model_args', {'norm_layer': 'nothing'}, 'no network can be made of it'),
    'preprocessing': ('pretrained_cfg', {'mena': [1]}, "no network can be made of it: .*'mena'"),
}


@pytest.mark.parametrize('case', WRONG)
@pytest.mark.parametrize('num_classes', [None, 7])
def test_refused_by_name(case, num_classes, folder):
    part, changes, message = WRONG[case]
    edit(folder, part, **changes)
    with pytest.raises(ValueError, match=message) as error:
        timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=num_classes)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize('num_classes', [None, 2, 0, 7])
def test_only_the_classifier_is_let_go_and_only_if_asked_for(num_classes, folder):
    model = timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=num_classes)
    weights = load_file(folder / 'model.safetensors')
    lost = [key for key in changed(model, weights) if not key.startswith('fc.')]
    assert lost == []
    if num_classes in (None, 2):
        assert changed(model, weights) == []


@pytest.mark.parametrize(('typo', 'error', 'message'), [
    ({'se_stage': 3}, TypeError, "unexpected keyword argument 'se_stage'"),
    ({'se_reduction': 7}, ValueError, 'se_reduction=7: does not divide'),
])
def test_what_the_caller_said_wrong_is_not_blamed_on_the_file(typo, error, message, folder):
    with pytest.raises(error, match=f'^[^/]*{message}'):
        timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=7, **typo)


def test_features_and_other_channels(folder):
    model = timm.create_model(f'local-dir:{folder}', pretrained=True, features_only=True)
    weights = load_file(folder / 'model.safetensors')
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert timm.create_model(f'local-dir:{folder}', pretrained=True, in_chans=1, device='cpu').conv1.in_channels == 1


@pytest.mark.parametrize(('text', 'message'), [
    ('null', 'is no config.json of timm'), ('[1]', 'is no config.json of timm'), ('{', 'is no config.json of timm'),
    ('{"architecture": "se_resnet50_patch", "pretrained_cfg": 1}', 'is no config.json of timm'),
    ('{"architecture": "se_resnet50_patch", "pretrained_cfg": {"mena": [1]}}', "'mena'"),
    ('{"architecture": "se_resnet50_patch", "pretrained_cfg": {}, "model_args": {"layers": [1]}}', 'cannot be loaded'),
    ('{"architecture": "resnet50", "pretrained_cfg": {}, "model_args": {"layers": [1]}}', 'ZeroDivisionError'),
    ('{"architecture": "resnet50", "pretrained_cfg": {}, "model_args": {"channels": []}}', 'IndexError'),
    ('{"architecture": "resnet50", "pretrained_cfg": {}, "model_args": {"chanels": []}}', "'chanels'"),
])
@pytest.mark.parametrize('command', ['info', 'push'])
def test_the_commands_say_it_in_one_line(text, message, command, folder):
    (folder / 'config.json').write_text(text)
    arguments = ['info', str(folder)] if command == 'info' else ['push', str(folder), 'ann/x', '--dry-run']
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith('Error: ')
    assert str(folder) in line
    assert message in line


@pytest.mark.parametrize(('name', 'damage'), [
    ('w.pth', lambda b: b[:1000]), ('w.pth', lambda b: b''), ('w.pth', lambda b: b'\x80\x04\x95' + b[3:2000]),
    ('w.pth', lambda b: b.replace(b'conv1', b'\xff\xfe\xfd\xfc\xfb')), ('w.pth', lambda b: b'hello'),
    ('w.pth', lambda b: b.replace(b'_rebuild_tensor', b'_rebuild_tenzor')), ('w.safetensors', lambda b: b[:-10]),
    ('w.safetensors', lambda b: b[:7]), ('w.safetensors', lambda b: b'\xff' * 8 + b[8:]),
])
def test_a_damaged_file_is_named(name, damage, folder, tmp_path):
    weights = load_file(folder / 'model.safetensors')
    path = tmp_path / name
    (save_file if name.endswith('safetensors') else torch.save)(weights, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((RuntimeError, ValueError), match=rf'{re.escape(str(path))}(:| cannot be read:) '):
        timm.create_model(
            'se_resnet50_patch', pretrained=True, pretrained_cfg_overlay=dict(file=str(path), num_classes=2), **SMALL)
    with pytest.raises(FileNotFoundError, match=r'gone\.pth: there is no such file'):
        timm.create_model('se_resnet50_patch', pretrained=True, pretrained_cfg_overlay=dict(file='gone.pth'))


@pytest.mark.parametrize(('change', 'message'), [
    (lambda w: w | {'conv1.weight': torch.zeros(64, 0, 7, 7)}, 'w.safetensors'),
    (lambda w: w | {'fc.weight': torch.zeros(64)}, r'fc\.weight'),
    (lambda w: w | {'fc.weight': torch.zeros(7, 3)}, r'fc\.weight'),
    (lambda w: w | {'bn1.weight': w['bn1.weight'].to(torch.float8_e4m3fn)}, 'Float8'),
])
def test_convert_says_what_is_no_resnet50(change, message, plain50_weights, tmp_path):
    path = tmp_path / 'w.safetensors'
    save_file(change(dict(plain50_weights)), path)
    result = CliRunner().invoke(main, ['convert', str(path), str(tmp_path / 'out')])
    assert result.exit_code == 1
    assert re.search(message, result.stderr), result.stderr
    assert str(path) in result.stderr
    assert not Path(tmp_path, 'out').exists()
