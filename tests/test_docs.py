"""The Python and the commands in README and docs run as they stand; a filled cache takes the Hub's place."""
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import cached_repo, in_forks
from PIL import Image
from safetensors.torch import save_file

import timm_se50
from timm_se50 import save_checkpoint
from timm_se50.cli.main import main

ROOT = Path(__file__).parents[1]
# What a snippet takes for granted: that its reader has these
GIVEN = '''
import timm, torch
torch.set_num_threads(1)
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
model = timm.create_model('se_resnet50_replace')
images = torch.randn(4, 3, 32, 32)
batches, classes = [(images, torch.tensor([0, 0, 1, 1]))], ['cat', 'dog']
'''
THE_HUB = '\n## The Hugging Face Hub\n'  # what follows needs one: tests/hub/test_hub_docs.py
THEN = {
    'README.md': '''
assert len(optimizer.param_groups[1]['params']) == 4 * (3 + 4 + 23 + 3)
assert sum(p.requires_grad for p in model.parameters()) == 4 * (3 + 4 + 23 + 3) + 2
assert all(torch.equal(v, same.state_dict()[k]) for k, v in model.state_dict().items())
''',
    'docs/any_model.md': '''
assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
assert len(se_parameters(loaded)) == 4 * (6 + 3)
''',
    'docs/detection.md': '''
assert len(se_parameters(model)) == 4 * (4 + 6 + 3)
assert all(p.grad.any() for n, p in model.named_parameters() if 'se_standard.fc2.weight' in n)
assert model.roi_heads.box_predictor.cls_score.out_features == 11
''',
    'docs/api.md': '''
assert len(blocks) == 16 and model.num_classes == 2 and model.pretrained_cfg['label_names'] == ['cat', 'dog']
assert sum(len(g['params']) for g in optimizer.param_groups if g['lr'] == 0.1) == 64
assert scaled.shape == (2, 256, 14, 14)
''',
    'docs/memory.md': "assert type(model.layer1[0]).__name__ == 'SEBottleneck'",
    'docs/gates.md': 'assert blocks[0].mean.shape == (2, 256) and len(gates) == 16',
    'docs/inference.md': '''
import onnxruntime
session = onnxruntime.InferenceSession('se_resnet50.onnx', providers=['CPUExecutionProvider'])
with torch.inference_mode():
    images = torch.randn(3, 3, 64, 96)
    expected = model(images)
    assert (fast(images) - expected).abs().max() < 1e-5 * expected.abs().max()
    out, = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert (torch.from_numpy(out) - expected).abs().max() < 1e-5 * expected.abs().max()
    out = torch.from_numpy(compiled(images.numpy())[0])
    assert (out - expected).abs().max() < 1e-5 * expected.abs().max()
''',
}


@pytest.fixture(scope='module')
def cache(tmp_path_factory, plain50_weights):
    folder = tmp_path_factory.mktemp('cache')
    for name, weights in (('resnet50.a1_in1k', plain50_weights), ('resnet50.tv2_in1k', plain50_weights),
                          ('resnet101', timm.create_model('resnet101').state_dict())):
        repo = cached_repo(folder, timm.get_pretrained_cfg(name).hf_hub_id)
        save_file(weights, repo / 'model.safetensors')
    theirs = timm.create_model('se_resnet50_patch', num_classes=3)
    save_checkpoint(theirs, cached_repo(folder, 'someone/their-se-resnet50'))
    return folder


needs_plugin = pytest.mark.skipif(
    not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .')


LONG = ['docs/any_model.md', 'docs/detection.md', 'docs/inference.md']


@needs_plugin
@pytest.mark.parametrize('files', [[file for file in THEN if file not in LONG],
                                   pytest.param(LONG, marks=pytest.mark.thorough)], ids=['short', 'long'])
def test_python_snippets(cache, tmp_path, files):
    cases = {}
    for file in files:
        text = (ROOT / file).read_text().partition(THE_HUB)[0]
        snippets = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
        assert snippets
        cases[file] = '\n'.join([GIVEN, *snippets, THEN[file]])
    env = {**os.environ, 'HF_HUB_CACHE': str(cache), 'HF_HUB_OFFLINE': '1'}
    subprocess.run([sys.executable, '-W', 'error', '-c', in_forks('import timm', cases)],
                   cwd=tmp_path, env=env, check=True)


def test_each_public_name_has_its_place_and_an_example():
    text = (ROOT / 'docs' / 'api.md').read_text()
    assert sorted(re.findall(r'^::: timm_se50\.(\w+)$', text, re.MULTILINE)) == sorted(timm_se50.__all__)
    examples = ' '.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
    assert not [name for name in timm_se50.__all__ if not re.search(rf'\b{name}\b', examples)]


def commands(file):
    """The lines of a page that are set off as code and begin with timm-se50."""
    return re.findall(r'^    (timm-se50 .*)$', (ROOT / file).read_text(), re.MULTILINE)


@pytest.fixture(scope='module')
def folder(tmp_path_factory, plain50_weights):
    """What the pages take for granted: weights, images in a folder for each class, and a checkpoint of a `convert`."""
    folder = tmp_path_factory.mktemp('commands')
    torch.save(plain50_weights, folder / 'resnet50.pth')
    for name, color in (('cat', 'red'), ('dog', 'blue')):
        (folder / 'photos' / name).mkdir(parents=True)
        Image.new('RGB', (64, 48), color).save(folder / 'photos' / name / '1.jpg')
    save_checkpoint(timm.create_model('se_resnet50_patch'), folder / 'my-se-resnet50')
    return folder


COMMANDS = [*commands('docs/command_line.md'), *commands('docs/gates.md')]


@pytest.mark.parametrize('command', COMMANDS)
def test_commands(command, folder, monkeypatch):
    if command.startswith('timm-se50 convert'):
        shutil.rmtree(folder / 'my-se-resnet50')
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


def test_there_are_commands():
    assert len(COMMANDS) == 4
