"""The tables "what you hold, the line to write" and the configs for other libraries, run as they stand."""
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import networks
import pytest
import timm
import torch
import torchvision

import timm_se50

ROOT = Path(__file__).parents[1]


def rows(page):
    return re.findall(r'^\| (.*?) \| (.*?) ?\| `(.*)` \|$', (ROOT / page).read_text(), re.MULTILINE)


TABLES = {'README.md': rows('README.md'), 'docs/any_model.md': rows('docs/any_model.md')}


def offline(line):
    """The line less its downloads."""
    line = line.replace("weights='DEFAULT'", 'weights=None' + ', weights_backbone=None' * ('tion.' in line))
    line = re.sub(r"smp\.Unet\('(.*?)'\)", r"smp.Unet('\1', encoder_weights=None)", line)
    line = re.sub(r'DetrForObjectDetection\.from_pretrained\(.*\)', 'detr()', line)
    return line.replace('pretrained=True', 'pretrained=False')


@pytest.mark.parametrize(('page', 'made', 'line'), [
    pytest.param(page, made.strip('` '), line, id=f'{page}: {held}',
                 marks=[pytest.mark.ecosystem] if 'smp.' in made or 'Detr' in made else [])
    for page, table in TABLES.items() for held, made, line in table])
def test_line(page, made, line):
    given = {'timm': timm, 'torch': torch, 'torchvision': torchvision, 'detr': networks.detr, **vars(timm_se50)}
    if 'smp.' in made:
        given['smp'] = pytest.importorskip('segmentation_models_pytorch', reason="pip install 'timm-se50[ecosystem]'")
    if 'Detr' in made:
        pytest.importorskip('transformers', reason="pip install 'timm-se50[ecosystem]'")
    if 'optimizer' in made:
        given['model'] = timm.create_model('resnet18')
    exec(offline(made), given)
    exec(offline(line), given)
    model = given['model']
    if 'optimizer' in given:
        assert given['optimizer'].param_groups[1]['params'] == timm_se50.se_parameters(model)
    assert len(timm_se50.se_parameters(model)) >= 4 * 8


def test_there_are_lines():
    assert {page: len(table) for page, table in TABLES.items()} == {'README.md': 3, 'docs/any_model.md': 11}


def run_snippet(word):
    """What a snippet of docs/ecosystem.md defines."""
    snippets = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/ecosystem.md').read_text(), re.DOTALL)
    given = {}
    exec(offline(next(s for s in snippets if word in s)), given)
    return given


def test_mmdetection():
    """What mmpretrain.TIMMBackbone makes of its config: all but its type is timm.create_model()'s."""
    config = run_snippet('mmpretrain')['model']
    del config['backbone']['type'], config['backbone']['_delete_']
    features = timm.create_model(checkpoint_path='', **config['backbone'])
    assert [m.shape[1] for m in features(torch.zeros(1, 3, 64, 64))] == config['neck']['in_channels']


def test_detectron2(monkeypatch):
    """With a stand-in for what the snippet imports of it."""
    stand_in = MagicMock()
    stand_in.ShapeSpec = lambda channels, stride: (channels, stride)
    stand_in.Backbone = torch.nn.Module
    stand_in.BACKBONE_REGISTRY.register.return_value = lambda cls: cls
    for name in ('detectron2', 'detectron2.layers', 'detectron2.modeling'):
        monkeypatch.setitem(sys.modules, name, stand_in)
    backbone = run_snippet('detectron2')['SEResNet50'](None, None)
    maps = backbone(torch.zeros(1, 3, 64, 64))
    shapes = {name: (m.shape[1], 64 // m.shape[2]) for name, m in maps.items()}
    assert backbone.output_shape() == shapes == {
        'res2': (256, 4), 'res3': (512, 8), 'res4': (1024, 16), 'res5': (2048, 32)}
