"""save_checkpoint(): what it writes gives the same logits back in a fresh process, and a failure changes nothing."""
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers import NARROW, changed
from safetensors import safe_open
from safetensors.torch import save_file
from timm.utils import ModelEmaV3, unwrap_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from timm_se50 import SEConfig, patch_blocks_, replace_blocks_, save_checkpoint
from timm_se50.checkpoint import load_model
from timm_se50.cli.push import model_of

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


def perturb(model):
    """Random values for every weight and statistic, so that nothing lost or swapped can go unseen."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.add_((noise.to(tensor.dtype) - 0.5) * 0.02)
    return model.eval()


def expect(model, folder, x):
    with torch.no_grad():
        logits = unwrap_model(model)(x)
    assert logits.isfinite().all()
    assert len(logits.unique()) > 1
    save_file({'x': x.contiguous(), 'logits': logits.contiguous()}, f'{folder}.expected')


def ddp(model):
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    return DistributedDataParallel(model)


def ema(model):
    wrapper = ModelEmaV3(model)
    perturb(wrapper.module)  # the averaged weights, not those of the model, are to be saved
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
    'bfloat16': lambda: timm.create_model('se_resnet50_replace', num_classes=3, **NARROW).bfloat16(),
    'headless': lambda: timm.create_model('se_resnet50_replace', num_classes=0, act_layer='silu', **NARROW),
    'portable': lambda: timm.create_model('se_resnet50_replace', num_classes=3),
}
WRAPPERS = {'channels_last': ddp, 'bfloat16': torch.compile, 'headless': ema, 'portable': sync_bn}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """Folder by name of the model, each saved."""
    tmp = tmp_path_factory.mktemp('saved')
    folders = {}
    for name, make in MODELS.items():
        torch.manual_seed(1)
        model = WRAPPERS.get(name, lambda m: m)(perturb(make()))
        plain = unwrap_model(model)
        expect(model, tmp / name, torch.rand(2, plain.conv1.in_channels, 64, 64, dtype=plain.conv1.weight.dtype))
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
        assert not any(p.name.startswith('.') for p in folder.parent.iterdir())
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
    folder = save_checkpoint(
        timm.create_model(f'local-dir:{saved["patch"]}', pretrained=True), tmp_path / 'patch')
    names = ('model.safetensors', 'config.json', 'README.md')
    first = {name: (folder / name).read_bytes() for name in names}
    assert first == {name: (saved['patch'] / name).read_bytes() for name in names}
    (folder / 'notes.txt').write_text('mine')
    model = timm.create_model(f'local-dir:{folder}', pretrained=True)
    save_checkpoint(model, folder)  # the file that the weights came from
    assert {name: (folder / name).read_bytes() for name in names} == first
    assert (folder / 'notes.txt').read_text() == 'mine'
    assert sorted(os.listdir(folder)) == sorted([*names, 'notes.txt'])


def test_preprocessing_of_the_checkpoint(tmp_path):
    save_checkpoint(tiny(), tmp_path / 'm', data_config={'mean': (0.1, 0.2, 0.3), 'std': (0.4, 0.5, 0.6)})
    loaded = timm.create_model(f'local-dir:{tmp_path / "m"}')
    data = timm.data.resolve_model_data_config(loaded)
    assert (*data['mean'], *data['std']) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def test_a_deep_stem_goes_through_the_command_that_pushes(tmp_path):
    model = timm.create_model(
        'se_resnet50_patch', num_classes=2, layers=(1, 1, 1, 1), stem_type='deep', stem_width=32).bfloat16()
    loaded = model_of(str(save_checkpoint(model, tmp_path / 'm')), None, {})
    assert changed(loaded, model.state_dict()) == []


def resnet_without_create_model():
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (3, 4, 6, 3), num_classes=2)


def half_a_stage():
    model = replace_blocks_(timm.create_model('resnet50', num_classes=2))
    model.layer3[2] = timm.create_model('resnet50', num_classes=2).layer3[2]
    return model


def two_positions():
    model = patch_blocks_(timm.create_model('resnet50', num_classes=2), SEConfig(stages=(1,)))
    return patch_blocks_(model, SEConfig(stages=(2,), position='pre'))


def with_eps():
    model = timm.create_model('se_resnet50_replace', num_classes=2)
    model.layer1[0].bn2.eps = 1e-3
    return model


def another_layer():
    model = tiny()
    model.layer2[0].conv2 = nn.Conv2d(32, 32, 3, 2, 2, dilation=2, bias=False)
    return model


def tiny(**kwargs):
    return timm.create_model('se_resnet50_patch', num_classes=2, **NARROW, **kwargs)


REFUSED = {
    'plain': (lambda: timm.create_model('resnet50', num_classes=2), {}, 'no SE blocks'),
    'other': (lambda: nn.Linear(2, 2), {}, r'Linear; expected a ResNet of timm with SE.*docs/any_model\.md'),
    'torchvision': (lambda: replace_blocks_(torchvision.models.resnet18()), {}, r'expected a ResNet of timm with SE'),
    'another layer': (another_layer, {}, r'layer2\.0\.conv2 is Conv2d.*where .* make it Conv2d'),
    'inference form': (lambda: timm.utils.reparameterize_model(tiny().eval()), {}, 'inference form of a model'),
    "timm's": (lambda: timm.create_model('seresnet50'), {}, "timm's own seresnet50, .*load its state dict into se_"),
    'bare': (lambda: replace_blocks_(resnet_without_create_model()), {}, 'no pretrained_cfg'),
    'half a stage': (half_a_stage, {}, r'layer3\.2 is Bottleneck, where .* make it SEBottleneck'),
    'two positions': (two_positions, {}, 'more than one position'),
    'eps': (with_eps, {}, r'layer1\.0\.bn2 is BatchNorm2d\(0\.001\)'),
    'an activation without a name': (lambda: tiny(act_layer=nn.Hardtanh), {}, "KeyError: 'hardtanh'.*Save the state"),
    'basic, portable': (lambda: replace_blocks_(timm.create_model('resnet18')), {'portable': True}, 'basic blocks'),
    'label_names as one string': (lambda: tiny(), {'label_names': 'ab'}, "label_names='ab': expected a list"),
    'label_names': (lambda: tiny(), {'label_names': ['a']}, '1 names; expected 2'),
    'portable': (lambda: tiny(se_reduction=8), {'portable': True}, 'reduction=8'),
    'meta': (lambda: tiny().to('meta'), {}, 'meta device'),
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


@pytest.mark.parametrize(('options', 'message'), [
    ({'label_names': {0: 'cat', 1: 'dog'}}, r"label_names=\{0: 'cat', .*expected a list of names, in the order"),
    ({'label_names': {'cat', 'dog'}}, 'expected a list of names, in the order'),
    ({'data_config': {'means': (0.1, 0.2, 0.3)}}, r"data_config: 'means' is unknown; expected some of input_size, "),
    ({'data_config': {'std': 'x'}}, r"data_config: 'std' is 'x'; expected numbers\."),
    ({'data_config': {'input_size': 64}}, r"data_config: 'input_size' is 64; expected numbers, three"),
    ({'data_config': {'interpolation': 3}}, r"data_config: 'interpolation' is 3; expected a name"),
])
def test_arguments_of_another_kind(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tiny(), tmp_path / 'm', **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('make', [torch.tensor, np.array, lambda v: [np.float32(x) for x in v], tuple])
def test_a_measured_mean(make, tmp_path):
    save_checkpoint(tiny(), tmp_path / 'm', data_config={'mean': make([0.25, 0.5, 0.75]), 'std': 0.5})
    cfg = config_of(tmp_path / 'm')['pretrained_cfg']
    assert (cfg['mean'], cfg['std']) == ([0.25, 0.5, 0.75], [0.5] * 3)


def test_a_folder_of_any_name(tmp_path):
    for name in ('run', 'run#2'):
        save_checkpoint(tiny(), tmp_path / name)
    assert load_model(str(tmp_path / 'run#2')).pretrained_cfg['file'] == str(tmp_path / 'run#2')


def test_a_file_in_the_way(tmp_path):
    (tmp_path / 'm').write_text('')
    with pytest.raises(NotADirectoryError, match='is a file; expected a folder'):
        save_checkpoint(tiny(), tmp_path / 'm')


@pytest.mark.parametrize('existing', [False, True])
def test_a_write_that_fails_leaves_what_was_there(existing, tmp_path):
    model = tiny()
    if existing:
        save_checkpoint(model, tmp_path / 'm')
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    perturb(model)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # as a full disk: writing past 1 MiB fails
    try:
        with pytest.raises(OSError, match=r'model\.safetensors could not be written'):
            save_checkpoint(model, tmp_path / 'm')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == (['m'] if existing else [])
    save_checkpoint(model, tmp_path / 'm')
    assert torch.equal(timm.create_model(f'local-dir:{tmp_path / "m"}', pretrained=True).fc.weight, model.fc.weight)


def test_a_file_of_the_users_claims_no_origin(create, tmp_path):
    """timm keeps the default tag in the cfg that `file` overlays, and nothing says that the weights are of that tag."""
    folder = save_checkpoint(create('replace'), tmp_path / 'model')
    for _ in range(2):
        config = json.loads((folder / 'config.json').read_text())
        assert not {'tag', 'license', 'origin_url', 'paper_ids'} & {
            k for k, v in config['pretrained_cfg'].items() if v is not None}
        assert 'base_model' not in (folder / 'README.md').read_text()
        folder = save_checkpoint(timm.create_model(f'local-dir:{folder}', pretrained=True), tmp_path / 'again')


def test_a_folder_in_the_place_of_a_file(tmp_path):
    model = tiny()
    (tmp_path / 'config.json').mkdir()
    with pytest.raises(IsADirectoryError, match=r'config\.json is a folder'):
        save_checkpoint(model, tmp_path / 'sub' / '..')
    assert not (tmp_path / 'model.safetensors').exists()
