"""The Python in README and docs runs as it stands, in a fresh process that has the plugin installed.

The Hub's place is taken by a filled cache, in the layout that huggingface_hub reads offline.
"""
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import timm
from helpers import cached_repo
from safetensors.torch import save_file

from timm_se50 import save_checkpoint

ROOT = Path(__file__).parents[1]
# What a snippet takes for granted: that its reader has these
GIVEN = '''
import timm, torch
torch.set_num_threads(1)
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
model = timm.create_model('se_resnet50_replace')
'''
THEN = {
    'README.md': '''
assert len(se_parameters(model)) == 4 * (23 + 3)
assert sum(p.requires_grad for p in model.parameters()) == 4 * (23 + 3) + 2
''',
    'docs/memory.md': 'assert model.layer1[0].memory_efficient is False',
}


@pytest.fixture(scope='module')
def cache(tmp_path_factory, plain_weights):
    folder = tmp_path_factory.mktemp('cache')
    save_file(plain_weights, cached_repo(folder, 'timm/resnet50.a1_in1k') / 'model.safetensors')
    save_file(plain_weights, cached_repo(folder, 'timm/resnet50.tv2_in1k') / 'model.safetensors')
    deep = timm.get_pretrained_cfg('resnet101').hf_hub_id
    save_file(timm.create_model('resnet101').state_dict(), cached_repo(folder, deep) / 'model.safetensors')
    theirs = timm.create_model('se_resnet50_patch', num_classes=3)
    save_checkpoint(theirs, cached_repo(folder, 'someone/their-se-resnet50'))
    return folder


@pytest.mark.skipif(
    not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .')
@pytest.mark.parametrize('file', THEN)
def test_python_snippets(file, cache, tmp_path):
    snippets = re.findall(r'```python\n(.*?)```', (ROOT / file).read_text(), re.DOTALL)
    assert snippets
    env = {**os.environ, 'HF_HUB_CACHE': str(cache), 'HF_HUB_OFFLINE': '1'}
    subprocess.run(
        [sys.executable, '-W', 'error', '-c', '\n'.join([GIVEN, *snippets, THEN[file]])],
        cwd=tmp_path, env=env, check=True)
