"""Whatever ResNet of timm surgery takes, saving takes, and timm's own call gives it back."""
import copy
import json
import pickle

import pytest
import timm
import torch
from helpers import INSERT, changed, settle_, shake_
from timm.models.resnet import ResNet
from torch import nn

import timm_se50
from timm_se50 import SEConfig, save_checkpoint
from timm_se50.checkpoint.network import network_args

SMALL = dict(num_classes=5)
ARCHITECTURES = {
    'resnet10t': 'an SE-ResNet-10-D', 'resnet18': 'an SE-ResNet-18', 'resnet26t': 'an SE-ResNet-26-D',
    'resnet34d': 'an SE-ResNet-34-D', 'resnet50s': 'an SE-ResNet-50-C', 'resnetblur50': 'an SE-ResNet-50',
    'resnetaa50d': 'an SE-ResNet-50-D', 'resnet50_gn': 'an SE-ResNet-50', 'resnext50_32x4d': 'an SE-ResNeXt-50',
    'wide_resnet50_2': 'an SE-Wide-ResNet-50', 'resnet101d': 'an SE-ResNet-101-D'}
thorough = {'resnet34d', 'resnet50s', 'resnetaa50d', 'wide_resnet50_2'}
SETTINGS = [
    ('replace', SEConfig(), {}),
    ('patch', SEConfig(8, (2, 4), 'post'), dict(in_chans=4, act_layer='silu', output_stride=16, global_pool='max'))]


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.thorough if name in thorough else ()) for name in ARCHITECTURES])
@pytest.mark.parametrize(('route', 'config', 'settings'), SETTINGS, ids=['default', 'other settings'])
@pytest.mark.filterwarnings('ignore:Pretrained (mean|std) does not match')
def test_saved_live_and_loaded_by_timm(name, route, config, settings, tmp_path):
    if 'output_stride' in settings and name in ('resnet10t', 'resnet18', 'resnet34d'):
        settings = settings | {'output_stride': 32}  # timm's BasicBlock is not dilated
    torch.manual_seed(0)
    model = settle_(timm.create_model(name, **SMALL, **settings))
    shake_(INSERT[route](model, config))
    folder = save_checkpoint(model, tmp_path / 'm')
    x = torch.randn(2, settings.get('in_chans', 3), 64, 64)
    expected = model.eval()(x)
    source = f'local-dir:{folder}'
    loaded = timm.create_model(source, pretrained=True).eval()
    assert torch.equal(loaded(x), expected)
    assert changed(loaded, model.state_dict()) == []
    assert torch.equal(timm.create_model(source, pretrained=True, num_classes=3).eval().forward_features(x),
                       model.forward_features(x))
    features = timm.create_model(source, pretrained=True, features_only=True).eval()
    assert torch.equal(features(x)[-1], model.forward_features(x))
    if not isinstance(model.layer2[0], timm_se50.SEBasicBlock):
        efficient = timm.create_model(source, pretrained=True, memory_efficient=True).eval()
        assert torch.equal(efficient(x), expected)
    again = save_checkpoint(loaded, tmp_path / 'again')
    assert changed(timm.create_model(f'local-dir:{again}', pretrained=True), model.state_dict()) == []
    resaved = (again / 'README.md').read_text()
    assert 'timm/resnet50.' not in resaved
    card = (folder / 'README.md').read_text()
    assert ARCHITECTURES[name] in card
    cfg = timm.get_pretrained_cfg(name)
    if cfg.hf_hub_id and cfg.tag:
        assert f'base_model: {cfg.hf_hub_id}' in card
        assert f'base_model: {cfg.hf_hub_id}' in resaved
        assert json.loads((folder / 'config.json').read_text())['pretrained_cfg']['license'] == cfg.license


def test_the_arguments_are_those_of_timms_entry_points(monkeypatch):
    """Of each ResNet in timm's registry that surgery takes: what its entry point passes, without a table."""
    checked = 0
    for name in timm.list_models('*resne*', exclude_filters=['resnetv2*', '*resnest*']):
        model = timm.create_model(name, device='meta')
        try:
            timm_se50.replace_blocks_(model)
        except ValueError:
            continue
        if type(model) is not ResNet:  # what holds one, as a hybrid transformer
            continue
        outline = timm.create_model('se_resnet50_patch', device='meta', **network_args(model))
        assert {k: v.shape for k, v in outline.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()}, name
        checked += 1
    assert checked > 40


@pytest.mark.parametrize('arguments', [{}, dict(stem_type='deep', stem_width=32, avg_down=True)], ids=['', 'deep stem'])
def test_a_pretrained_cfg_of_the_callers_own(arguments, tmp_path):
    """A folder of timm's own, of a plain ResNet; there is no config.json of ours to judge by."""
    torch.manual_seed(0)
    settings = dict(layers=(1, 1, 1, 1), channels=(32, 32, 64, 128), num_classes=10, **arguments)
    plain = settle_(timm.create_model('resnet50', **settings))
    timm.models.save_for_hf(plain, tmp_path, safe_serialization=True)
    cfg = {**plain.pretrained_cfg, 'source': 'local-dir', 'file': str(tmp_path), 'num_classes': 10}
    x = torch.randn(2, 3, 64, 64)
    model = timm.create_model('se_resnet50_patch', pretrained=True, pretrained_cfg=cfg, **settings).eval()
    assert torch.equal(model(x), plain(x))
    settings |= {'num_classes': 3}
    other = timm.create_model('se_resnet50_patch', pretrained=True, pretrained_cfg=cfg, **settings)
    assert torch.equal(other.eval().forward_features(x), plain.forward_features(x))


@pytest.mark.parametrize('make', [
    lambda: timm_se50.replace_blocks_(settle_(timm.create_model('resnet26d', **SMALL))),
    lambda: timm_se50.patch_blocks_(nn.Sequential(settle_(timm.create_model('resnet18', **SMALL))))
], ids=['timm', 'held'])
def test_only_se_and_the_head_train(make):
    """The plain part of the network computes the same after ten steps, its running statistics included."""
    torch.manual_seed(0)
    model = timm_se50.train_only_se_(make())
    resnet = model if hasattr(model, 'fc') else model[0]
    if resnet is not model:
        resnet.fc.requires_grad_()
    x, y = torch.randn(8, 3, 32, 32), torch.randint(5, (8,))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(10):
        model.eval().train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    moved = set(changed(model, before))
    assert moved == {k for k in before if '.se_standard.' in k or k.split('.')[-2] == 'fc'}
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in model.modules() if isinstance(m, timm_se50.SEModule))


def test_what_trains_only_se_can_be_copied_and_held():
    model = timm_se50.train_only_se_(timm.create_model('se_resnet50_patch', layers=(1, 1, 1, 1), **SMALL))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.layer1[0].bn1.train() is other.layer1[0].bn1
        assert not other.train().layer1[0].bn1.training
    wrapped = timm_se50.train_only_se_(nn.DataParallel(timm.create_model('se_resnet50_patch', **SMALL)))
    assert all(p.requires_grad for p in wrapped.module.fc.parameters())
    with pytest.raises(ValueError, match='The ResNet has no SE module'):
        timm_se50.train_only_se_(timm.create_model('resnet18'))
