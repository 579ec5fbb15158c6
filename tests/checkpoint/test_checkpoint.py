"""save_checkpoint(): what it writes gives the same logits back in a fresh process, and what it cannot save is named."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import NARROW, settle_, shake_
from safetensors import safe_open
from safetensors.torch import save_file
from timm.utils import ModelEmaV3, unwrap_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from timm_se50 import SEConfig, patch_blocks_, replace_blocks_, save_checkpoint

ROOT = Path(__file__).parents[2]
LOAD = """
import sys, timm, torch
import timm_se50
from safetensors.torch import load_file
for folder in sys.argv[1:]:
    model = timm.create_model('local-dir:' + folder, pretrained=True).eval()
    want = load_file(folder + '.expected')
    model.to(want['logits'].dtype)
    if 'channels_last' in folder:
        model.to(memory_format=torch.channels_last)  # its convolutions round otherwise
    with torch.no_grad():
        logits = model(want['x'])
    assert torch.equal(logits, want['logits']), folder
    assert model.pretrained_cfg.get('label_names') == (['a', 'b', 'c'] if model.num_classes == 3 else None), folder
    print(folder, type(model).__name__, model.pretrained_cfg['architecture'])
"""


def ddp(model):
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    return DistributedDataParallel(model)


def ema(model):
    wrapper = ModelEmaV3(model)
    shake_(model)
    model.conv1.weight.data *= 2  # the averaged weights, not those of the model, are to be saved
    return wrapper


def sync_bn(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()


STRIDE = {'output_stride': 16}
MODELS = {
    'replace': lambda: timm.create_model(
        'se_resnet50_replace', num_classes=3, in_chans=4, se_stages=(2, 4), se_reduction=(8, 32), se_position='post',
        **NARROW),
    'patch': lambda: timm.create_model('se_resnet50_patch.fb_ssl_yfcc100m_ft_in1k', num_classes=3, se_position='pre'),
    'live_replace': lambda: replace_blocks_(
        timm.create_model('resnet50.tv_in1k', num_classes=3, drop_path_rate=0.1, **STRIDE),
        SEConfig((4, 16), (1, 3), 'identity')),
    'live_patch': lambda: patch_blocks_(timm.create_model('resnet50', global_pool='max'), SEConfig(32, (4,))),
    'channels_last': lambda: timm.create_model(
        'se_resnet50_patch', num_classes=3, **NARROW).to(memory_format=torch.channels_last),
    'bfloat16': lambda: timm.create_model('se_resnet50_replace', num_classes=3, **NARROW),
    'headless': lambda: timm.create_model('se_resnet50_replace', num_classes=0, act_layer='silu', **NARROW),
    'portable': lambda: timm.create_model('se_resnet50_replace', num_classes=3),
}
WRAPPERS = {
    'channels_last': ddp, 'bfloat16': lambda model: torch.compile(model.bfloat16()), 'headless': ema,
    'portable': sync_bn}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folder by name of the model, each saved."""
    tmp = tmp_path_factory.mktemp('saved')
    folders = {}
    for name, make in MODELS.items():
        torch.manual_seed(1)
        model = WRAPPERS.get(name, lambda m: m)(shake_(settle_(make())))
        plain = unwrap_model(model)
        x = torch.rand(2, plain.conv1.in_channels, 64, 64, dtype=plain.conv1.weight.dtype)
        with torch.no_grad():
            save_file({'x': x, 'logits': plain(x).contiguous()}, tmp / f'{name}.expected')
        before = torch.get_rng_state()
        folders[name] = save_checkpoint(
            model, tmp / name, portable=name == 'portable',
            label_names=['a', 'b', 'c'] if plain.num_classes == 3 else None)
        assert torch.equal(torch.get_rng_state(), before)  # a save in the middle of training changes no result
    torch.distributed.destroy_process_group()
    return folders


def config_of(folder):
    return json.loads((folder / 'config.json').read_text())


def test_logits_come_back_in_a_fresh_process(saved):
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    run = subprocess.run(
        [sys.executable, '-c', LOAD, *map(str, saved.values())], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = [line.split()[1:] for line in run.stdout.splitlines()]
    routes = ['replace', 'patch', 'replace', 'replace', 'patch', 'replace', 'replace']
    assert lines == [['SEResNet', f'se_resnet50_{route}'] for route in routes] + [['ResNet', 'seresnet50']]


def test_files(saved):
    for name, folder in saved.items():
        assert sorted(os.listdir(folder)) == ['README.md', 'config.json', 'model.safetensors']
        with safe_open(folder / 'model.safetensors', 'pt') as f:
            assert f.metadata() == {'format': 'pt'}
            assert f.get_tensor('conv1.weight').dtype == (torch.bfloat16 if name == 'bfloat16' else torch.float32)
        umask = os.umask(0)
        os.umask(umask)
        for path in (folder, *folder.iterdir()):
            assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask


def test_settings_in_the_config(saved):
    config = config_of(saved['live_replace'])
    assert config['architecture'] == 'se_resnet50_replace'
    assert config['model_args'] == {
        **STRIDE, 'in_chans': 3, 'global_pool': 'avg',
        'se_reduction': [4, 16], 'se_stages': [1, 3], 'se_position': 'identity'}
    assert config['num_classes'] == 3
    assert config['label_names'] == ['a', 'b', 'c']
    assert config['pretrained_cfg']['license'] == 'bsd-3-clause'
    assert config_of(saved['replace'])['pretrained_cfg']['input_size'] == [4, 224, 224]
    portable = config_of(saved['portable'])
    assert portable['architecture'] == 'seresnet50'
    assert portable['model_args'] == {'in_chans': 3, 'global_pool': 'avg'}


def test_saved_again_from_the_loaded_model_and_over_itself(saved, tmp_path):
    names = ('model.safetensors', 'config.json', 'README.md')
    first = {name: (saved['patch'] / name).read_bytes() for name in names}
    (tmp_path / 'patch').mkdir()
    (tmp_path / 'patch' / 'notes.txt').write_text('mine')
    source = saved['patch']
    for _ in range(2):  # the second time the file that the weights come from
        source = save_checkpoint(timm.create_model(f'local-dir:{source}', pretrained=True), tmp_path / 'patch')
        assert {path.name: path.read_bytes() for path in source.iterdir()} == first | {'notes.txt': b'mine'}


def tiny(**kwargs):
    return timm.create_model('se_resnet50_patch', num_classes=2, **NARROW, **kwargs)


def edited(name, value):
    """A model with something else under the name of a layer, or of an attribute of one."""
    model = tiny()
    layer, _, attribute = name.rpartition('.')
    setattr(model.get_submodule(layer), attribute, value)
    return model


def bare():
    return replace_blocks_(timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1)))


def two_positions():
    model = patch_blocks_(timm.create_model('resnet18'), SEConfig(stages=(1,)))
    return patch_blocks_(model, SEConfig(stages=(2,), position='pre'))


DILATED = nn.Conv2d(32, 32, 3, 2, 2, dilation=2, bias=False)
REFUSED = {
    'plain': (lambda: timm.create_model('resnet50', num_classes=2), {}, 'no SE blocks'),
    'other': (lambda: nn.Linear(2, 2), {}, r'Linear; expected a ResNet of timm with SE.*docs/any_model\.md'),
    'torchvision': (lambda: replace_blocks_(torchvision.models.resnet18()), {}, r'expected a ResNet of timm with SE'),
    'another layer': (lambda: edited('layer2.0.conv2', DILATED), {}, r'layer2\.0\.conv2 is Conv2d.* make it Conv2d'),
    'another weight': (lambda: edited('scale', nn.Parameter(torch.ones(1))), {}, r'scale is of .* make it nothing'),
    'another eps': (lambda: edited('layer1.0.bn2.eps', 1e-3), {}, r'layer1\.0\.bn2 is BatchNorm2d\(0\.001\)'),
    'another gate': (lambda: edited('layer1.0.se_standard.logit_scale', 1.0), {}, r'se_standard is SEModule'),
    'half a stage': (lambda: edited('layer3.1', timm.create_model('resnet50', **NARROW).layer3[1]), {},
                     r'layer3\.1 is Bottleneck, where .* make it SEBottleneck'),
    'two positions': (two_positions, {}, r'layer1\.0\.se_standard is SEModule.* make it nothing'),
    'inference form': (lambda: timm.utils.reparameterize_model(tiny().eval()), {}, 'no SE blocks.* an inference form'),
    'bare': (bare, {}, 'The model has no pretrained_cfg'),
    'an activation without a name': (lambda: tiny(act_layer=nn.Hardtanh), {}, "KeyError: 'hardtanh'"),
    'basic, portable': (lambda: replace_blocks_(timm.create_model('resnet18')), {'portable': True}, 'basic blocks'),
    'portable': (lambda: tiny(se_reduction=8), {'portable': True}, 'reduction=8'),
    'meta': (lambda: tiny().to('meta'), {}, "'conv1.weight' is on the meta device"),
    'one string': (tiny, {'label_names': 'ab'}, "label_names='ab': expected a list of 2 names"),
    'one name': (tiny, {'label_names': ['a']}, 'expected a list of 2 names'),
    'names by number': (tiny, {'label_names': {0: 'cat', 1: 'dog'}}, 'expected a list of 2 names'),
    'names in no order': (tiny, {'label_names': {'cat', 'dog'}}, 'expected a list of 2 names'),
    'a typing error': (tiny, {'data_config': {'means': (0.1, 0.2, 0.3)}}, "data_config: 'means' is unknown; expected "),
    'text in tests': (tiny, {'data_config': {'test_crop_pct': 'x'}}, "data_config={'test_crop_pct': 'x'}: "),
    'text': (tiny, {'data_config': {'std': 'x'}}, "data_config={'std': 'x'}: timm can write no config with it"),
    'one size': (tiny, {'data_config': {'input_size': 64}}, "data_config={'input_size': 64}: "),
    'no name': (tiny, {'data_config': {'interpolation': 3}}, "data_config={'interpolation': 3}: "),
}


@pytest.mark.parametrize('case', REFUSED)
def test_refused_with_the_reason_and_nothing_written(case, tmp_path):
    make, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        save_checkpoint(make(), tmp_path / 'm', **options)
    assert os.listdir(tmp_path) == []


def test_what_says_how_it_was_made_is_not_saved(tmp_path):
    model = timm.create_model(
        'se_resnet50_replace', pretrained_strict=False, memory_efficient=True, num_classes=2, **NARROW).eval()
    folder = save_checkpoint(model, tmp_path / 'm')
    args = config_of(folder)['model_args']
    assert args['channels'] == list(NARROW['channels'])
    assert not args.keys() & {'pretrained_strict', 'memory_efficient', 'num_classes'}
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(timm.create_model(f'local-dir:{folder}', pretrained=True).eval()(x), model(x))


@pytest.mark.parametrize('make', [torch.tensor, np.array, lambda v: [np.float32(x) for x in v], tuple])
def test_a_measured_mean(make, tmp_path):
    folder = save_checkpoint(tiny(), tmp_path / 'm', data_config={'mean': make([0.25, 0.5, 0.75]), 'std': 0.5})
    data = timm.data.resolve_model_data_config(timm.create_model(f'local-dir:{folder}'))
    assert [*data['mean'], *data['std']] == [0.25, 0.5, 0.75, 0.5, 0.5, 0.5]
