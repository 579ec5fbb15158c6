"""Libraries that build on timm's registry find both models by name, with no import of ours."""
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import timm
from helpers import cached_repo
from PIL import Image
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.skipif(
        not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .'),
]
WORKER = Path(__file__).with_name('ecosystem_worker.py')


@pytest.mark.parametrize(('function', 'library', 'model'), [  # models by turns: both are in one registry
    ('smp', 'segmentation_models_pytorch', 'se_resnet50_replace'),
    ('transformers_backbone', 'transformers', 'se_resnet50_patch'),
    ('fastai', 'fastai', 'se_resnet50_replace'),
    ('lightning', 'lightning', 'se_resnet50_patch'),
])
def test_library_finds_the_model(function, library, model, plain50_weights, tmp_path):
    pytest.importorskip(library, reason="pip install 'timm-se50[ecosystem]'")
    tag = timm.get_pretrained_cfg('resnet50').tag
    save_file(plain50_weights, cached_repo(tmp_path / 'cache', f'timm/resnet50.{tag}') / 'model.safetensors')
    for split in ('train', 'validation') if library == 'fastai' else ():
        for label in ('cat', 'dog'):
            (tmp_path / 'data' / split / label).mkdir(parents=True)
            for i in range(10):
                color = (10 * i, 100, 200 if label == 'cat' else 0)
                Image.new('RGB', (64, 64), color).save(tmp_path / 'data' / split / label / f'{i}.png')
    env = {**os.environ, 'HF_HUB_CACHE': str(tmp_path / 'cache'), 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
        [sys.executable, str(WORKER), function, model], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
