"""The tables "what you hold, the line to write" and the configs for other libraries, run as they stand."""
import re
import sys
import types
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import timm_se50

ROOT = Path(__file__).parents[1]


def rows(page):
    for row in re.findall(r'^\| (.*?) \| (.*?) ?\| `(.*)` \|$', (ROOT / page).read_text(), re.MULTILINE):
        needed = {'smp.': 'segmentation_models_pytorch', 'Detr': 'transformers'}
        marks = [pytest.mark.ecosystem for word in needed if word in row[1]]
        yield pytest.param(row[1].strip('` '), row[2], id=f'{page}: {row[0]}', marks=marks)


TABLES = [*rows('README.md'), *rows('docs/any_model.md')]


def offline(line):
    """The line less its downloads."""
    line = line.replace("weights='DEFAULT'", 'weights=None' + ', weights_backbone=None' * ('tion.' in line))
    line = re.sub(r"smp\.Unet\('(.*?)'\)", r"smp.Unet('\1', encoder_weights=None)", line)
    line = re.sub(r'DetrForObjectDetection\.from_pretrained\(.*\)', 'DetrForObjectDetection(small)', line)
    return line if 'local-dir' in line else line.replace('pretrained=True', 'pretrained=False')


@pytest.mark.parametrize(('made', 'line'), TABLES)
def test_line(made, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {'timm': timm, 'torch': torch, 'torchvision': torchvision, **{n: getattr(timm_se50, n) for n in (
        'SEConfig', 'patch_blocks_', 'replace_blocks_', 'save_checkpoint', 'se_parameters')}}
    if 'smp.' in made:
        given['smp'] = pytest.importorskip('segmentation_models_pytorch', reason="pip install 'timm-se50[ecosystem]'")
    if 'Detr' in made:
        transformers = pytest.importorskip('transformers', reason="pip install 'timm-se50[ecosystem]'")
        given['DetrForObjectDetection'] = transformers.DetrForObjectDetection
        given['small'] = transformers.DetrConfig(
            backbone='resnet50', use_timm_backbone=True, use_pretrained_backbone=False, encoder_layers=1,
            decoder_layers=1, num_queries=5)
    if 'optimizer' in made:
        given['model'] = timm.create_model('resnet18')
    exec(offline(made), given)
    exec(offline(line), given)
    model = given['model']
    if isinstance(model, dict):  # a config of mmdetection
        model = create_as_mmpretrain(model['backbone'])
    if 'optimizer' in given:
        assert given['optimizer'].param_groups[1]['params'] == timm_se50.se_parameters(model)
    assert len(timm_se50.se_parameters(model)) >= 4 * 8


def test_there_are_lines():
    assert len([*rows('README.md')]) == 3
    assert len([*rows('docs/any_model.md')]) == 11


def create_as_mmpretrain(config):
    """What mmpretrain.TIMMBackbone makes of its config: all but its type is timm.create_model()'s."""
    assert config.pop('type') == 'mmpretrain.TIMMBackbone'
    config.pop('_delete_', None)
    return timm.create_model(checkpoint_path='', **config)


def snippet(word):
    snippets = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/ecosystem.md').read_text(), re.DOTALL)
    return next(s for s in snippets if word in s)


def test_mmdetection():
    given = {}
    exec(offline(snippet('mmpretrain')), given)
    features = create_as_mmpretrain(given['model']['backbone'])
    maps = features(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == given['model']['neck']['in_channels']


def test_detectron2(monkeypatch):
    """With a stand-in for what the snippet imports of it."""
    registered = {}
    layers, modeling = types.ModuleType('detectron2.layers'), types.ModuleType('detectron2.modeling')
    layers.ShapeSpec = lambda channels, stride: (channels, stride)
    modeling.Backbone = torch.nn.Module
    modeling.BACKBONE_REGISTRY = types.SimpleNamespace(
        register=lambda: lambda cls: registered.setdefault(cls.__name__, cls))
    for name, module in (('detectron2', types.ModuleType('detectron2')), ('detectron2.layers', layers),
                         ('detectron2.modeling', modeling)):
        monkeypatch.setitem(sys.modules, name, module)
    exec(offline(snippet('detectron2')), {})
    backbone = registered['SEResNet50'](None, None)
    maps = backbone(torch.zeros(1, 3, 64, 64))
    shapes = {name: (m.shape[1], 64 // m.shape[2]) for name, m in maps.items()}
    assert backbone.output_shape() == shapes == {
        'res2': (256, 4), 'res3': (512, 8), 'res4': (1024, 16), 'res5': (2048, 32)}


def test_save_checkpoint_says_how(tmp_path):
    model = timm_se50.replace_blocks_(torchvision.models.resnet18(weights=None))
    with pytest.raises(ValueError, match=r'save the state dict and the SEConfig: docs/any_model\.md has the lines'):
        timm_se50.save_checkpoint(model, tmp_path / 'model')
    assert not list(tmp_path.iterdir())
