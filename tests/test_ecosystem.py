"""Libraries that build on timm's registry find both models by name, with no import of ours."""
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import timm
import torch
from helpers import cached_repo
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

pytestmark = [
    pytest.mark.ecosystem,
    pytest.mark.skipif(
        not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .'),
]
WORKER = Path(__file__).with_name('ecosystem_worker.py')
LIBRARIES = {
    'smp': 'segmentation_models_pytorch',
    'transformers_backbone': 'transformers',
    'transformers_wrapper': 'transformers',
    'fastai': 'fastai',
    'lightning': 'lightning',
}


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    """A Hugging Face cache with a plain ResNet-50, in the layout that huggingface_hub reads."""
    folder = tmp_path_factory.mktemp('cache')
    torch.manual_seed(0)
    plain = timm.create_model('resnet50', zero_init_last=False)
    with torch.no_grad():
        plain(torch.randn(16, 3, 64, 64))  # running statistics
    tag = timm.models.get_pretrained_cfg('resnet50').tag
    save_file(plain.state_dict(), cached_repo(folder, f'timm/resnet50.{tag}') / 'model.safetensors')
    return folder


@pytest.mark.parametrize(('library', 'model'), [  # by turns: both are in one registry
    (library, ('se_resnet50_replace', 'se_resnet50_patch')[i % 2]) for i, library in enumerate(LIBRARIES)])
def test_library_finds_the_model(library, model, cache, tmp_path):
    pytest.importorskip(LIBRARIES[library], reason="pip install 'timm-se50[ecosystem]'")
    if library == 'fastai':
        digits = load_digits()
        for i, (image, label) in enumerate(zip(digits.images[:40], digits.target)):
            path = tmp_path / 'data' / ('train' if i < 20 else 'validation') / str(label) / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype('uint8')).resize((64, 64)).convert('RGB').save(path)
    env = {**os.environ, 'HF_HUB_CACHE': str(cache), 'HF_HUB_OFFLINE': '1'}
    done = subprocess.run(
        [sys.executable, str(WORKER), library, model], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'ran with' in done.stdout
