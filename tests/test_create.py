"""Making a pretrained model: all that the file has is loaded, and all else is drawn as timm draws it."""
import math

import pytest
import timm
import torch
from helpers import changed, shake_
from safetensors.torch import load_file, save_file
from torch.profiler import ProfilerActivity, profile


def make(path, name='se_resnet50_replace', **kwargs):
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


@pytest.fixture
def se_file(create50, tmp_path):
    """Weights of a model with trained SE modules."""
    path = tmp_path / 'se_resnet50.safetensors'
    save_file(shake_(create50('replace')).state_dict(), path)
    return path


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


def test_a_new_head_is_timms_own(plain50_file, route):
    """SE uses no global random number up, so that what is drawn beside it is what timm's resnet50 draws."""
    heads = []
    for name in (f'se_resnet50_{route}', 'resnet50'):
        torch.manual_seed(0)
        heads.append(make(plain50_file, name, num_classes=500).fc.weight)
    assert torch.equal(*heads)


def test_se_modules_are_initialized_as_ever(plain50_file):
    for block in make(plain50_file).layer4:
        fc1 = block.se_standard.fc1
        assert fc1.weight.std().item() == pytest.approx(math.sqrt(2 / fc1.out_channels), rel=0.02)
        assert not block.se_standard.fc2.weight.any()


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
