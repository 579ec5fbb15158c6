"""Making a pretrained model: what is loaded is not initialized first, and all else is initialized as ever."""
import math
import threading

import pytest
import timm
import torch
from helpers import changed, shake_
from safetensors.torch import load_file, save_file
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from timm_se50 import se_parameters
from timm_se50.deferred_init import DeferredInit


class Draws(TorchDispatchMode):
    """Counts the random numbers drawn within it."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ('aten::normal_', 'aten::uniform_'):
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


def make(path, name='se_resnet50_replace', **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


@pytest.fixture
def se_file(create50, tmp_path):
    """Weights of a model with trained SE modules."""
    path = tmp_path / 'se_resnet50.safetensors'
    save_file(shake_(create50('replace')).state_dict(), path)
    return path


def test_draws_no_random_numbers_for_what_is_loaded(plain50_file, route):
    with Draws() as draws:
        model = make(plain50_file, f'se_resnet50_{route}')
    head = sum(p.numel() for p in model.fc.parameters())
    # Conv2d draws once, and then SEModule as timm's ResNet does; biases are drawn once
    assert draws.count <= head + 2 * sum(p.numel() for p in se_parameters(model))
    with Draws() as draws:
        make(plain50_file, 'resnet50')
    assert draws.count > 45e6


def test_loads_all_weights(se_file, route):
    assert not changed(make(se_file, f'se_resnet50_{route}'), load_file(se_file))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_dtype(se_file, dtype):
    model = make(se_file, dtype=dtype)
    assert not changed(model, {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(se_file).items()})


def test_features_only(se_file):
    weights = load_file(se_file)
    found = make(se_file, features_only=True).state_dict()
    assert found.keys() == {k for k in weights if not k.startswith('fc.')}
    assert all(torch.equal(v, weights[k]) for k, v in found.items())


def test_in_inference_mode(se_file):
    with torch.inference_mode():
        assert not changed(make(se_file), load_file(se_file))


@pytest.mark.parametrize('in_chans', [1, 4])
def test_in_chans(plain50_file, in_chans):
    torch.manual_seed(0)
    ours, timms = make(plain50_file, in_chans=in_chans), make(plain50_file, 'resnet50', in_chans=in_chans)
    assert torch.equal(ours.conv1.weight, timms.conv1.weight)


def test_new_head_is_initialized_as_ever(plain50_file):
    torch.manual_seed(0)
    fc = make(plain50_file, num_classes=500).fc
    bound = 1 / math.sqrt(fc.in_features)  # nn.Linear: uniform between these
    for p in fc.parameters():
        assert p.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert p.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    torch.manual_seed(0)
    assert torch.equal(make(plain50_file, num_classes=500).fc.weight, fc.weight)


def test_se_modules_are_initialized_as_ever(plain50_file):
    for block in make(plain50_file).layer4:
        fc1 = block.se_standard.fc1
        assert fc1.weight.std().item() == pytest.approx(math.sqrt(2 / fc1.out_channels), rel=0.02)
        assert not block.se_standard.fc2.weight.any()


def test_what_is_not_loaded_is_initialized_as_ever(plain50_weights):
    key = 'layer3.0.conv1.weight'
    deferred = DeferredInit()
    with deferred:
        model = ResNet(Bottleneck, (3, 4, 6, 3))
    result = model.load_state_dict({k: v for k, v in plain50_weights.items() if k != key}, strict=False)
    assert result.missing_keys == [key]
    torch.manual_seed(0)
    deferred.settle()
    torch.manual_seed(0)
    expected = torch.empty_like(plain50_weights[key])
    nn.init.kaiming_normal_(expected, mode='fan_out', nonlinearity='relu')  # ResNet.init_weights()
    assert not changed(model, {**plain50_weights, key: expected})


def test_without_loading_all_is_initialized():
    deferred = DeferredInit()
    with deferred:
        model = ResNet(Bottleneck, (1, 1, 1, 1))
    deferred.settle()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)


def new_conv():
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, 3).weight


def test_other_threads_do_not_see_it():
    found = []
    with DeferredInit():
        thread = threading.Thread(target=lambda: found.append(new_conv()))
        thread.start()
        thread.join()
    assert torch.equal(found[0], new_conv())


def test_failure_leaves_nothing_behind(tmp_path):
    expected = new_conv()
    save_file({'conv1.weight': torch.zeros(1)}, tmp_path / 'wrong.safetensors')
    with pytest.raises(RuntimeError, match=r'conv1\.weight'):
        make(tmp_path / 'wrong.safetensors')
    assert torch.equal(new_conv(), expected)


def test_no_second_copy_in_memory(plain50_file):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model = make(plain50_file)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    # PyTorch counts the file, which safetensors maps and does not read into memory, as one more. Beside the weights
    # there are the neutral ones, 5 MB, and the doubled norms.
    weights = sum(t.nbytes for t in model.state_dict().values())
    assert peak < plain50_file.stat().st_size + 1.1 * weights


def test_file_may_change_afterwards(se_file):
    weights = {k: v.clone() for k, v in load_file(se_file).items()}
    model = make(se_file)
    with open(se_file, 'r+b') as f:  # the same file on disk, not a new one in its place
        f.seek(-4096, 2)
        f.write(bytes(4096))
    assert changed_file(se_file, weights)
    assert not changed(model, weights)


def changed_file(path, weights):
    return any(not torch.equal(v, weights[k]) for k, v in load_file(path).items())
