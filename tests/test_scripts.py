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
from helpers import cached_repo, settle_
from PIL import Image
from safetensors.torch import load_file, save_file

SCRIPTS = os.environ.get('TIMM_SCRIPTS', '')
pytestmark = [
    pytest.mark.skipif(
        not SCRIPTS, reason="timm's scripts are in its repository and in neither its wheel nor its sdist; set "
        'TIMM_SCRIPTS to a folder that has them'),
    pytest.mark.skipif(
        not entry_points(group='torch.backends', name='timm_se50'), reason='needs the plugin installed: pip install .'),
]
DATA = ('--device', 'cpu', '--img-size', '32', '-b', '10', '--data-dir', 'data', '-j', '0', '--num-classes', '10')
models = pytest.mark.parametrize('model', ['se_resnet50_replace', 'se_resnet50_patch'])


@pytest.fixture(scope='module')
def folder():
    """Images, 40 to train with and 20 to validate with, and a plain ResNet-50 of 1000 and one of 10 classes."""
    with TemporaryDirectory() as name:  # a gigabyte, not to be kept to the end of all tests
        folder = Path(name)
        for split, count in (('train', 4), ('validation', 2)):
            for label in map(str, range(10)):
                (folder / 'data' / split / label).mkdir(parents=True)
                for i in range(count):
                    Image.effect_noise((32, 32), 64).convert('RGB').save(folder / 'data' / split / label / f'{i}.png')
        for num_classes in (1000, 10):
            torch.manual_seed(0)
            plain = settle_(timm.create_model('resnet50', num_classes=num_classes))
            save_file(plain.state_dict(), folder / f'resnet50_{num_classes}.safetensors')
        yield folder


@pytest.fixture(scope='module')
def run(folder):
    def run(script, *args, **env):
        command = [sys.executable, str(Path(SCRIPTS, script)), *map(str, args)]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr
    return run


@pytest.fixture(scope='module')
def train(folder, run):
    """Runs train.py for two steps an epoch; its checkpoint holds the plain weights, mapped and a little trained."""
    def train(source, model, *args, **env):
        name = f'{model}_{len(list(folder.iterdir()))}'
        run('train.py', *DATA, '-vb', 10, '--warmup-epochs', 0, '--train-batches-per-epoch', 2, '--lr', 1e-4,
            '--checkpoint-hist', 1, '--output', '.', '--experiment', name, '--model', model, *args, **env)
        checkpoint = torch.load(folder / name / 'last.pth.tar', map_location='cpu', weights_only=False)
        plain = load_file(folder / source)
        for key in {'state_dict', 'state_dict_ema'} & checkpoint.keys():
            fc2 = {k: v for k, v in checkpoint[key].items() if k.endswith('.fc2.weight')}
            assert len(fc2) == 16
            assert all(v.any() and v.abs().max() < 0.05 for v in fc2.values())  # from exactly 0, where an init is not
            for weight in ('layer3.2.bn3.weight', 'layer4.2.conv3.weight'):
                assert (checkpoint[key][weight] - plain[weight]).abs().max() < 0.01  # two small steps
        return folder / name, checkpoint
    return train


@models
def test_train_from_a_file_and_resume(train, model):
    source = 'resnet50_1000.safetensors'
    settings = ('--model-kwargs', 'se_reduction=8', '--model-ema', '--channels-last')
    first_folder, first = train(source, model, *settings, '--pretrained', '--pretrained-path', source, '--amp',
                                '--amp-dtype', 'bfloat16', '--epochs', 1)
    assert first['epoch'] == 0
    assert first['state_dict']['layer1.0.se_standard.fc1.weight'].shape[0] == 256 // 8

    second_folder, second = train(source, model, *settings, '--resume', first_folder / 'last.pth.tar', '--epochs', 2)
    with open(second_folder / 'summary.csv') as f:
        assert [row['epoch'] for row in csv.DictReader(f)] == ['1']
    assert all((second['state_dict'][k] != v).any() for k, v in first['state_dict'].items() if '.fc2.' in k)


@models
def test_train_from_an_initial_checkpoint(train, model):
    source = 'resnet50_10.safetensors'
    train(source, model, '--initial-checkpoint', source, '--epochs', 1, '--grad-checkpointing', '--torchcompile',
          'aot_eager', '--opt', 'adamw', '--layer-decay', '0.7')


@models
def test_train_from_a_tag_in_a_filled_cache(folder, train, model):
    source = 'resnet50_1000.safetensors'
    cache = folder / f'cache_{model}'
    os.link(folder / source, cached_repo(cache, 'timm/resnet50.tv_in1k') / 'model.safetensors')
    train(source, f'{model}.tv_in1k', '--pretrained', '--epochs', 1, '--device-modules', 'timm_se50',
          TIMM_SE50_AUTOLOAD='0', HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE='1')


@pytest.fixture(scope='module')
def losses(run):
    """What validate.py prints of a model with the plain weights: one loss a batch."""
    def losses(model, *args):
        out = run('validate.py', *DATA, '--split', 'validation', '--log-freq', 1, '--model', model, '--checkpoint',
                  'resnet50_10.safetensors', *args)
        return [float(loss) for loss in re.findall(r'Loss:\s+(\S+)', out)]
    return losses


@models
@pytest.mark.parametrize('option', ['--reparam', '--torchscript', '--torchcompile=aot_eager'])
def test_validate(losses, model, option):
    # printed with four decimals; a fused or compiled model rounds otherwise
    assert losses(model, option) == pytest.approx(losses('resnet50'), abs=5e-4)


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
