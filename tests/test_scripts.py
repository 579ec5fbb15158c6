"""timm's own scripts, unmodified, on both models, from a plain ResNet-50 and with nothing imported."""
import csv
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import timm
import torch
from helpers import cached_repo
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

SCRIPTS = os.environ.get('TIMM_SCRIPTS', '')
pytestmark = [
    pytest.mark.skipif(
        not SCRIPTS, reason="timm's scripts are in its repository and in neither its wheel nor its sdist; set "
        'TIMM_SCRIPTS to a folder that has them'),
    pytest.mark.skipif(
        not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .'),
]
CPU = ('--device', 'cpu', '--img-size', '32', '-b', '10')
DATA = (*CPU, '--data-dir', 'data', '-j', '0', '--num-classes', '10')
TRAIN = (*DATA, '-vb', '10', '--warmup-epochs', '0', '--train-batches-per-epoch', '2', '--lr', '1e-4',
         '--checkpoint-hist', '1', '--output', '.')
models = pytest.mark.parametrize('model', ['se_resnet50_replace', 'se_resnet50_patch'])


@pytest.fixture(scope='module')
def folder():
    """Real images, 40 to train with and 20 to validate with, and a plain ResNet-50 of 1000 and one of 10 classes."""
    with TemporaryDirectory() as folder:  # a gigabyte, not to be kept to the end of all tests
        digits, seen = load_digits(), [0] * 10
        for image, label in zip(digits.images, digits.target):
            seen[label] += 1
            if seen[label] <= 6:
                split = 'train' if seen[label] <= 4 else 'validation'
                path = Path(folder, 'data', split, str(label), f'{label}_{seen[label]}.png')
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((image * 15.9).astype('uint8')).resize((32, 32)).convert('RGB').save(path)
        torch.manual_seed(0)
        for num_classes in (1000, 10):
            plain = timm.create_model('resnet50', num_classes=num_classes, zero_init_last=False)
            with torch.no_grad():
                plain(torch.randn(16, 3, 64, 64))  # running statistics
            save_file(plain.state_dict(), Path(folder, f'resnet50_{num_classes}.safetensors'))
        yield Path(folder)


@pytest.fixture(scope='module')
def run(folder):
    def run(script, *args, **env):
        command = [sys.executable, str(Path(SCRIPTS, script)), *map(str, args)]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr
    return run


def check_trained(folder, name, ema=False):
    """A checkpoint of train.py holds the plain weights, mapped and a little trained. Returns it."""
    checkpoint = torch.load(folder / name / 'last.pth.tar', map_location='cpu', weights_only=False)
    plain = timm.models.load_state_dict(str(folder / 'resnet50_10.safetensors'))
    for weights in (checkpoint['state_dict'], *([checkpoint['state_dict_ema']] if ema else [])):
        fc2 = {k: v for k, v in weights.items() if k.endswith('.fc2.weight')}
        assert len(fc2) == 16
        assert all(v.any() and v.abs().max() < 0.05 for v in fc2.values())  # from exactly 0, where an init is not
        if 'pretrained' not in name:
            # two small steps change a norm's weight by less
            assert (weights['layer3.2.bn3.weight'] - plain['layer3.2.bn3.weight']).abs().max() < 0.05
            assert (weights['layer4.2.conv3.weight'] - plain['layer4.2.conv3.weight']).abs().max() < 0.01  # std is 0.03
    return checkpoint


@models
def test_train_from_a_file_and_resume(folder, run, model):
    settings = ('--model', model, '--model-kwargs', 'se_reduction=8', '--model-ema', '--channels-last')
    out = run('train.py', *TRAIN, *settings, '--pretrained', '--pretrained-path', 'resnet50_1000.safetensors',
              '--amp', '--amp-dtype', 'bfloat16', '--epochs', 1, '--experiment', f'{model}_pretrained')
    assert 'Overwriting' not in out
    first = check_trained(folder, f'{model}_pretrained', ema=True)
    assert first['epoch'] == 0
    assert first['state_dict']['layer1.0.se_standard.fc1.weight'].shape[0] == 256 // 8

    run('train.py', *TRAIN, *settings, '--resume', f'{model}_pretrained/last.pth.tar', '--epochs', 2,
        '--experiment', f'{model}_pretrained_resumed')
    with open(folder / f'{model}_pretrained_resumed' / 'summary.csv') as f:
        assert [row['epoch'] for row in csv.DictReader(f)] == ['1']
    second = check_trained(folder, f'{model}_pretrained_resumed', ema=True)
    moved = (second['state_dict'][k] - first['state_dict'][k] for k in first['state_dict'] if '.se_standard.fc2.' in k)
    assert all(0 < d.abs().max() < 0.05 for d in moved)


@models
def test_train_from_an_initial_checkpoint(folder, run, model):
    run('train.py', *TRAIN, '--model', model, '--initial-checkpoint', 'resnet50_10.safetensors', '--epochs', 1,
        '--grad-checkpointing', '--torchcompile', 'aot_eager', '--opt', 'adamw', '--layer-decay', '0.7',
        '--experiment', f'{model}_initial')
    check_trained(folder, f'{model}_initial')


@models
def test_train_from_a_tag_in_a_filled_cache(folder, run, model):
    cache = folder / 'cache'
    if not cache.exists():
        os.link(
            folder / 'resnet50_1000.safetensors', cached_repo(cache, 'timm/resnet50.tv_in1k') / 'model.safetensors')
    run('train.py', *TRAIN, '--model', f'{model}.tv_in1k', '--pretrained', '--epochs', 1, '--experiment',
        f'{model}_pretrained_tag', '--device-modules', 'timm_se50', TIMM_SE50_AUTOLOAD='0', HF_HUB_CACHE=str(cache),
        HF_HUB_OFFLINE='1')
    check_trained(folder, f'{model}_pretrained_tag')


@pytest.fixture(scope='module')
def losses(run):
    """What validate.py prints of a model with the plain weights: one loss a batch."""
    def losses(model, *args):
        out = run('validate.py', *DATA, '--split', 'validation', '--log-freq', 1, '--model', model, '--checkpoint',
                  'resnet50_10.safetensors', *args)
        return [float(loss) for loss in re.findall(r'Loss:\s+(\S+)', out)]
    return losses


@pytest.fixture(scope='module')
def plain_losses(losses):
    return losses('resnet50')


@models
@pytest.mark.parametrize('option', ['--reparam', '--torchscript', '--torchcompile=aot_eager'])
def test_validate(losses, plain_losses, model, option):
    # printed with four decimals; a fused or compiled model rounds otherwise
    assert losses(model, option) == pytest.approx(plain_losses, abs=5e-4)


def test_inference(folder, run):
    for model in ('resnet50', 'se_resnet50_replace', 'se_resnet50_patch'):
        run('inference.py', *DATA, '--data-dir', 'data/validation', '--model', model, '--topk', 3, '--include-index',
            '--checkpoint', 'resnet50_10.safetensors', '--results-dir', '.', '--results-file', model)
    plain = (folder / 'resnet50.csv').read_text()
    assert len(set(re.findall(r'\[.*?\]', plain))) > 10  # the images are told apart
    assert (folder / 'se_resnet50_replace.csv').read_text() == plain
    assert (folder / 'se_resnet50_patch.csv').read_text() == plain


@models
def test_benchmark(run, model):
    out = run('benchmark.py', *CPU, '--model', model, '--precision', 'float32', '--num-classes', 10,
              '--num-warm-iter', 1, '--num-bench-iter', 5)  # with fewer than 5 it divides by zero
    assert f'"model": "{model}"' in out
    assert '"param_count": 26.06' in out


@models
def test_onnx_export(folder, run, model):
    onnxruntime = pytest.importorskip('onnxruntime')
    run('onnx_export.py', f'{model}.onnx', '--model', model, '--checkpoint', 'resnet50_10.safetensors',
        '--num-classes', 10, '--img-size', 32, '--batch-size', 2)
    plain = timm.create_model('resnet50', num_classes=10, checkpoint_path=folder / 'resnet50_10.safetensors').eval()
    x = torch.randn(2, 3, 32, 32)
    session = onnxruntime.InferenceSession(folder / f'{model}.onnx')
    logits = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(logits, plain(x), rtol=1e-3, atol=1e-3)  # the exporter folds the norms
