"""What is refused: each error names the key, shape, file or argument, and the model is left as it was."""
import copy
import os
import re
from functools import partial

import pytest
import timm
import torch
from helpers import changed
from safetensors.torch import save_file

from timm_se50 import map_resnet_weights
from timm_se50.weights import naming, recognise


def weights_of(name, **kwargs):
    """Keys and shapes are what is judged, so storage of zeros does."""
    state = timm.create_model(name, device='meta', **kwargs).state_dict()
    return {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in state.items()}


OTHER_NETWORKS = {
    'resnet18': ('layer1.0.conv1.weight', 'a ResNet-18'),
    'resnet34': ('layer1.0.conv1.weight', 'a ResNet-34'),
    'resnet26': ('layer1.2.conv1.weight', 'a ResNet-26'),
    'resnet101': ('layer3.6.conv1.weight', 'a ResNet-101'),
    'resnet152': ('layer2.4.conv1.weight', 'a ResNet-152'),
    'resnet50c': ('conv1.weight', 'a ResNet-50-C'),
    'resnet50d': ('conv1.weight', 'a ResNet-50-D'),
    'resnext50_32x4d': ('layer1.0.conv1.weight', 'a ResNeXt-50'),
    'wide_resnet50_2': ('layer1.0.conv1.weight', 'a Wide-ResNet-50'),
    'legacy_seresnet50': ('conv1.weight', 'a legacy (Cadene) SE-ResNet'),
    'seresnet101': ('layer3.6.conv1.weight', 'an SE-ResNet-101'),
    'seresnext50_32x4d': ('layer1.0.conv1.weight', 'an SE-ResNeXt-50'),
    'ecaresnet50d': ('conv1.weight', "with another attention, or SE in another form ('layer1.0.se.conv.weight')"),
    'efficientnet_b0': ('conv1.weight', "no ResNet (its first key is 'conv_stem.weight')"),
}


def edited(state, key, value):
    """A copy of a state dict with one entry changed, or left out where the value is None."""
    state = {k: v for k, v in state.items() if k != key}
    return state if value is None else state | {key: value}


FAULTS = {
    'missing': ('layer2.1.bn2.running_var', None, 'is missing'),
    'extra': ('layer2.1.bn9.weight', torch.zeros(3), 'is no key of the model'),
    'shape': ('layer4.0.conv2.weight', torch.zeros(512, 512, 1, 1), r'has shape (512, 512, 1, 1), expected (512, 512'),
    'dtype': ('layer1.0.conv1.weight', torch.zeros(64, 64, 1, 1, dtype=torch.int64), 'has dtype torch.int64'),
    'no tensor': ('layer1.0.conv1.weight', [1.0], 'holds a list, not a tensor'),
    'no tensor by which to recognise it': ('layer1.0.conv2.weight', [1.0], 'holds a list, not a tensor'),
}


@pytest.fixture(scope='module')
def model():
    return timm.create_model('se_resnet50_patch')


@pytest.fixture
def refuses(model, tmp_path):
    """`refuses(state_dict, *parts)`: with each part in the message, and the model as before."""
    before = copy.deepcopy(model.state_dict())

    def refuses(state_dict, *parts):
        given = dict(state_dict)
        with pytest.raises(RuntimeError) as error:
            map_resnet_weights(state_dict, model)
        for part in parts:
            assert part in str(error.value)
        assert changed(model, before) == []
        assert state_dict == given or all(state_dict[k] is v for k, v in given.items())
    return refuses


@pytest.mark.parametrize('name', OTHER_NETWORKS)
def test_another_network(refuses, name):
    refuses(weights_of(name), *OTHER_NETWORKS[name], 'the model is an SE-ResNet-50')


@pytest.mark.parametrize('fault', FAULTS)
def test_one_entry_wrong(refuses, plain50_weights, fault):
    key, value, message = FAULTS[fault]
    refuses(edited(plain50_weights, key, value), repr(key), message)


@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors')
@pytest.mark.parametrize('key', ['layer4.2.conv2.weight', 'layer1.0.conv2.weight'])  # the latter tells what it is
def test_one_tensor_that_cannot_be_loaded(refuses, plain50_weights, key):
    """torch finds it out in the midst of loading."""
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(4)])
    for value, kind in ((plain50_weights[key].to_sparse(), 'torch.sparse_coo'), (nested, 'nested')):
        refuses(edited(plain50_weights, key, value), repr(key), f'is {kind}; expected a dense tensor')


WHOLE = {
    'two keys for one': (
        lambda w: w | {'model.conv1.weight': w['conv1.weight'] + 1}, "'model.conv1.weight' are both 'conv1.weight'"),
    'a key that is no string': (lambda w: {**w, 5: torch.zeros(3)}, '5 is a key of type int'),
    'an fc1 of no rows': (
        lambda w: edited(weights_of('se_resnet50_patch'), 'layer1.0.se_standard.fc1.weight', torch.zeros(0, 256, 1, 1)),
        "'layer1.0.se_standard.fc1.weight' has shape (0, 256, 1, 1), expected (16, 256"),
    'one SE entry missing': (lambda w: edited(weights_of('seresnet50'), 'layer2.1.se.fc1.weight', None),
                             "'layer2.1.se_standard.fc1.weight' is missing"),
    'empty': (lambda w: {}, "'conv1.weight' is missing. The weights look like an empty file"),
    'a checkpoint': (lambda w: {'state_dict': w, 'epoch': 1}, "'state_dict' holds a OrderedDict"),
    'an optimizer': (lambda w: {'state': {}, 'param_groups': []}, "not a tensor: this is an optimizer's state"),
}


@pytest.mark.parametrize('case', WHOLE)
def test_what_is_no_state_dict_of_a_resnet50(refuses, plain50_weights, case):
    make, message = WHOLE[case]
    refuses(make(plain50_weights), message)


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(se_reduction=8), "'layer1.0.se_standard.fc1.weight' has shape (32, 256, 1, 1), expected (16, 256, 1, 1)"),
    (dict(se_reduction=8), 'se_reduction=8'),
    (dict(se_stages=(3, 4), se_reduction=(4, 8)), 'se_stages=(3, 4), se_reduction=(4, 8)'),
    (dict(se_position='post'), "se_position='post'"),
    (dict(se_position='pre'), "se_position='pre'"),
], ids=str)
def test_weights_at_other_settings(refuses, settings, message):
    refuses(weights_of('se_resnet50_replace', **settings), message)


def create_from(path, **kwargs):
    return timm.create_model(
        'se_resnet50_replace', pretrained=True, pretrained_cfg_overlay=dict(file=str(path)), **kwargs)


@pytest.mark.parametrize('num_classes', [1000, 7])
def test_pretrained_checks_completeness_although_timm_would_not(plain50_weights, tmp_path, num_classes):
    """timm loads with strict=False as soon as num_classes differs."""
    path = tmp_path / 'model.safetensors'
    save_file(edited(plain50_weights, 'layer3.2.conv2.weight', None), path)
    with pytest.raises(RuntimeError, match=r"'layer3.2.conv2.weight' is missing"):
        create_from(path, num_classes=num_classes)


def test_a_truncated_file_is_named(plain50_file, tmp_path):
    path = tmp_path / 'cut.safetensors'
    path.write_bytes(plain50_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        create_from(path)
    assert 'Expected a whole safetensors file' in str(error.value)


@pytest.mark.parametrize('value', [None, 3, [1.0], 'text', {}], ids=str)
def test_whatever_a_dict_holds_is_described(plain50_weights, value):
    for key in plain50_weights:
        assert 'ResNet' in recognise({**plain50_weights, key: value})
    assert recognise({k: value for k in plain50_weights}).startswith('no ResNet')


@pytest.mark.parametrize(('error', 'kind', 'said'), [
    (MemoryError(), MemoryError, None), (torch.OutOfMemoryError('full'), torch.OutOfMemoryError, 'full'),
    (NotImplementedError('no'), NotImplementedError, 'w.pth: no'),
    (EOFError(), ValueError, 'w.pth cannot be read: EOFError'),
    (OSError(28, 'No space left'), OSError, r"\[Errno 28\] No space left: 'w.pth'"),
    (ConnectionError('reset by peer'), ConnectionError, '^reset by peer'),
    (FileNotFoundError(2, 'gone', 'other'), FileNotFoundError, "gone: 'other'"),
    (FileNotFoundError(), FileNotFoundError, 'w.pth: there is no such file'),
], ids=repr)
def test_errors_keep_their_kind_and_name_the_file(error, kind, said):
    with pytest.raises(kind, match=said) as raised, naming('w.pth'):
        raise error
    assert getattr(raised.value, 'errno', None) == getattr(error, 'errno', None)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('load', [create_from, partial(timm.create_model, 'se_resnet50_patch', False, None, None)])
def test_code_in_a_pickle_does_not_run(plain50_weights, tmp_path, load):
    path, mark = tmp_path / 'model.pth', tmp_path / 'it-ran'
    torch.save({**plain50_weights, 'bomb': Bomb(mark)}, path)
    with pytest.raises((RuntimeError, ValueError), match='weights_only'):
        load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), 'the bomb is a dud, so this test showed nothing'


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(se_stages=(5,)), r'se_stages=(5,): expected a non-empty'),
    (dict(se_stages=()), r'se_stages=(): expected'),
    (dict(se_stages=(2, 1)), r'se_stages=(2, 1): expected a non-empty, ascending'),
    (dict(se_stages=3), r'se_stages=3: expected a non-empty'),
    (dict(se_stages=(True, 2)), r'se_stages=(True, 2): expected a non-empty'),
    (dict(se_reduction=0), r'se_reduction=0: expected ints of at least 1'),
    (dict(se_reduction=16.0), r'se_reduction=16.0: expected ints'),
    (dict(se_reduction=(16, 16)), r'se_reduction=(16, 16): expected one int, or 4'),
    (dict(se_reduction=3), r'se_reduction=3: does not divide the 256 channels'),
    (dict(se_position=['pre']), r"se_position=['pre']: expected one of 'standard', 'pre'"),
    (dict(memory_efficient='false'), r"memory_efficient='false': expected True or False"),
], ids=str)
def test_settings(route, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        timm.create_model(f'se_resnet50_{route}', **settings)
