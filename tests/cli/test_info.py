"""`timm-se50 info`: what it counts is what formulas, and timm's own models, say."""
import json
from pathlib import Path

import pytest
import timm
from click.testing import CliRunner

import timm_se50
from timm_se50.cli.info import describe
from timm_se50.cli.main import main


def _run(*args):
    result = CliRunner().invoke(main, ['info', *map(str, args)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_counts_are_those_of_formulas():
    info = json.loads(_run('se_resnet50_patch', '--size', 64, '--json'))
    twin, plain = timm.create_model('seresnet50'), timm.create_model('resnet50')
    channels = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert info['parameters'] == sum(p.numel() for p in twin.parameters())
    assert info['parameters'] - info['se_parameters'] == sum(p.numel() for p in plain.parameters())
    assert info['se_parameters'] == sum(2 * c * (c // 16) + c + c // 16 for c in channels)
    assert info['flops'] == describe(twin, 64)['flops']
    assert info['flops'] - info['se_flops'] == describe(plain, 64)['flops']
    assert info['se_flops'] == sum(2 * 2 * c * (c // 16) for c in channels)


def test_blocks_and_settings():
    model = timm.create_model('se_resnet50_replace', se_stages=(3, 4), se_reduction=(16, 8), se_position='pre')
    info = describe(model, 64)
    blocks = {b['block']: b for b in info['blocks']}
    assert len(blocks) == 16
    assert 'se_position' not in blocks['layer2.3']
    assert {k: blocks['layer4.1'][k] for k in ('class', 'se_position', 'channels', 'hidden')} == {
        'class': 'SEBottleneck', 'se_position': 'pre', 'channels': 2048, 'hidden': 256}
    assert "se_stages=(3, 4), se_reduction=(16, 8), se_position='pre'" in info['recognised']
    stem_and_head = [*model.conv1.parameters(), *model.bn1.parameters(), *model.fc.parameters()]
    assert info['parameters'] == sum(b['parameters'] for b in blocks.values()) + sum(p.numel() for p in stem_and_head)
    head = 2 * 2048 * 1000
    stem = 2 * 64 * 3 * 49 * 32 * 32
    assert info['flops'] == sum(b['flops'] for b in blocks.values()) + stem + head


def test_plain_and_basic_block_models():
    plain = describe(timm.create_model('resnet18', num_classes=7, in_chans=1), 32)
    assert (plain['recognised'], plain['se_parameters'], plain['num_classes']) == ('a ResNet-18', 0, 7)
    assert plain['input_size'] == [1, 32, 32]
    se = describe(timm_se50.patch_blocks_(timm.create_model('resnet18', num_classes=7, in_chans=1)), 32)
    assert se['blocks'][0]['class'] == 'SEBasicBlock'
    assert se['flops'] - se['se_flops'] == plain['flops']


def test_timms_own_se_counts_too(tmp_path):
    """As in a folder of `portable=True`."""
    ours, timms = (describe(timm.create_model(name), 32) for name in ('se_resnet50_replace', 'seresnet50'))
    for info in (ours, timms):
        del info['architecture']
        info['blocks'] = [{**b, 'class': ''} for b in info['blocks']]
    assert ours == timms
    model = timm.create_model('se_resnet50_patch', num_classes=2)
    assert '2,530,992' in _run(timm_se50.save_checkpoint(model, tmp_path / 'portable', portable=True), '--size', 32)


def test_folder_needs_no_weights(tmp_path):
    model = timm.create_model('se_resnet50_replace', num_classes=3, se_position='post')
    (timm_se50.save_checkpoint(model, tmp_path / 'model') / 'model.safetensors').unlink()
    text = _run(tmp_path / 'model')
    for part in ('se_resnet50_replace: an SE-ResNet-50', "se_position='post'", '3 classes', 'one 3 x 224 x 224 image'):
        assert part in text
    assert text.count('post, ') == 16


@pytest.mark.parametrize(('args', 'message'), [
    (('nosuch',), 'Unknown model (nosuch)'), (('se_resnet50',), 'Near it: se_resnet50_patch, se_resnet50_'),
    (('resnet5o.a1_in1k',), 'Near it: resnet50.'), (('se_resnet50_patch.a1',), 'Near it: se_resnet50_patch.a1_in1k'),
    (('nowhere/model',), 'nowhere/model'), (('.',), 'Config file not found'),
    (('convnext_atto',), 'holds no ResNet'), (('null',), 'local-dir:null cannot be loaded'),
    (('hf-hub:a@b@c',), 'hf-hub:a@b@c cannot be loaded')])
def test_bad_input_is_one_line(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('null').mkdir()
    Path('null', 'config.json').write_text('{"architecture": "se_resnet50_patch", "pretrained_cfg": null}')
    result = CliRunner().invoke(main, ['info', *args])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert message in line
