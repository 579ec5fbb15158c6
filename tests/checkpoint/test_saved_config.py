"""A folder that is loaded by `timm.create_model('local-dir:...')`: its config.json may not drop weights in silence."""
import json

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import changed
from safetensors.torch import load_file

from timm_se50 import save_checkpoint
from timm_se50.cli.main import main

SMALL = dict(layers=(1, 1, 1, 1), channels=(16, 16, 16, 16), num_classes=2, se_reduction=4)


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
    'no classes': (None, {'num_classes': 0}, 'another network than its weights are of'),
    'classes below zero': (None, {'num_classes': -1}, "'num_classes' in pretrained_cfg is -1; expected 1000"),
    'classes are null': (None, {'num_classes': None}, "'num_classes' in pretrained_cfg is None; expected 1000"),
    'classes in model_args': ('model_args', {'num_classes': 5}, "'num_classes' in pretrained_cfg is 2; expected 5"),
    'classifier': ('pretrained_cfg', {'classifier': ['fc', 'layer4.0.conv1']}, "'classifier' in .*; expected 'fc'"),
    'first_conv': ('pretrained_cfg', {'first_conv': 'layer1.0.conv1'}, "'first_conv' in .*; expected 'conv1'"),
    'label_offset': ('pretrained_cfg', {'label_offset': 1}, "'label_offset' in pretrained_cfg is 1"),
    'another loader': ('pretrained_cfg', {'custom_load': True}, "'custom_load' in pretrained_cfg is True"),
    'another file': ('pretrained_cfg', {'hf_hub_filename': 'x.bin'}, "'hf_hub_filename' .* is 'x.bin'; expected None"),
    'another size': ('pretrained_cfg', {'fixed_input_size': True}, 'no network can be made of it'),
    'meta': ('model_args', {'device': 'meta'}, "'device' in model_args describes no network"),
    'not strict': ('model_args', {'pretrained_strict': False}, "'pretrained_strict' in model_args describes no netw"),
    'no channels': ('model_args', {'channels': []}, 'no network can be made of it: IndexError'),
    'another depth': ('model_args', {'layers': [1, 1, 2, 1]}, r"'layer3\.1\.conv1\.weight' is missing"),
    'more input channels': ('model_args', {'in_chans': 4}, r"'conv1.weight' has shape \(64, 3, .* and \(64, 4, "),
    'huge': ('model_args', {'channels': [16000] * 4}, 'another network than its weights are of'),
    'endless': ('model_args', {'layers': [10 ** 9] * 4}, "'layers' has 4000000000 blocks; expected at most 1000"),
    'reduction': ('model_args', {'se_reduction': 'x'}, "se_reduction='x'"),
    'another reduction': ('model_args', {'se_reduction': 8}, r"'layer1\.0\.se_standard\.fc1\.weight' has shape"),
    'activation': ('model_args', {'act_layer': 'nothing'}, "no network can be made of it: KeyError: 'nothing'"),
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


@pytest.mark.parametrize(('asked', 'let_go'), [
    ({}, ''), ({'num_classes': 2}, ''), ({'num_classes': 0}, 'fc'), ({'num_classes': 7}, 'fc'),
    ({'features_only': True}, 'fc'), ({'in_chans': 1}, 'conv1')], ids=str)
def test_only_what_the_caller_asks_for_is_let_go(asked, let_go, folder):
    model = timm.create_model(f'local-dir:{folder}', pretrained=True, **asked)
    weights = load_file(folder / 'model.safetensors')
    assert {key.partition('.')[0] for key in changed(model, weights)} - {'fc'} == {let_go} - {'fc', ''}
    assert ('fc.weight' in changed(model, weights)) == (let_go == 'fc')


@pytest.mark.parametrize(('typo', 'error', 'message'), [
    ({'se_stage': 3}, TypeError, "unexpected keyword argument 'se_stage'"),
    ({'se_reduction': 7}, ValueError, 'se_reduction=7: does not divide'),
])
def test_what_the_caller_said_wrong_is_not_blamed_on_the_file(typo, error, message, folder):
    with pytest.raises(error, match=f'^[^/]*{message}'):
        timm.create_model(f'local-dir:{folder}', pretrained=True, num_classes=7, **typo)


@pytest.mark.parametrize(('text', 'message'), [
    ('null', 'TypeError'), ('[1]', 'TypeError'), ('{', 'JSONDecodeError'),
    ('{"architecture": "se_resnet50_patch", "pretrained_cfg": {"mena": [1]}}', "'mena'"),
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
