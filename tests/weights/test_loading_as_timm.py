"""What timm's own resnet50 or seresnet50 can load, these models can, with the same result."""
import copy
from functools import partial

import pytest
import timm
import torch
from helpers import NARROW, changed, shake_
from timm.layers import BatchNormAct2d, RmsNorm2d, freeze_batch_norm_2d
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.optim.swa_utils import AveragedModel

from timm_se50 import map_resnet_weights
from timm_se50.bottleneck import SEBottleneck


@pytest.fixture
def model(route):
    return timm.create_model(f'se_resnet50_{route}', **NARROW).eval()


@pytest.mark.parametrize('strict', [True, False])
def test_plain_weights_into_a_frozen_model(model, plain, plain_weights, images, strict):
    """A frozen BatchNorm counts no batches; the file of an ordinary one says how many there were."""
    freeze_batch_norm_2d(model).load_state_dict(plain_weights, strict=strict)
    assert torch.equal(model(images), freeze_batch_norm_2d(plain)(images))


def test_weights_of_before_freezing(model):
    before = copy.deepcopy(shake_(model).state_dict())
    freeze_batch_norm_2d(model).load_state_dict(before)
    assert {k for k in changed(model, before) if not k.endswith('num_batches_tracked')} == set()


@pytest.mark.parametrize('strict', [True, False])
def test_with_a_module_of_the_users_own(model, plain, plain_weights, images, strict):
    """The usual reason for strict=False. What plain weights do not have is missing, and the rest is mapped."""
    model.aux = nn.Linear(1024, 10)
    model.register_buffer('label_map', torch.arange(1000))
    if strict:
        with pytest.raises(RuntimeError, match=r'Missing key.*aux\.weight'):
            model.load_state_dict(plain_weights)
    else:
        result = model.load_state_dict(plain_weights, strict=False)
        assert {k for k in result.missing_keys if '.se_' not in k} == {'aux.bias', 'aux.weight', 'label_map'}
        assert torch.equal(model(images), plain(images))
    model.load_state_dict(copy.deepcopy(model.state_dict()))


def test_counts_of_one_dimension(model, plain, plain_weights, images):
    weights = {k: v[None] if k.endswith('_tracked') else v for k, v in plain_weights.items()}
    model.load_state_dict(map_resnet_weights(weights, model))
    assert torch.equal(model(images), plain(images))


def test_an_averaged_model(model, plain, images):
    model.load_state_dict(map_resnet_weights(AveragedModel(plain).state_dict(), model))
    assert torch.equal(model(images), plain(images))


def test_in_activation_checkpointing(model, plain, plain_weights, images):
    apply_activation_checkpointing(model, check_fn=lambda m: isinstance(m, SEBottleneck))
    for weights in (plain_weights, map_resnet_weights(plain_weights, model)):
        model.load_state_dict(weights)
        assert torch.equal(model(images), plain(images))


def test_completed_by_torch(model, plain, plain_weights, images):
    """As for FSDP: the state dict gets what it lacks from the model, so it has to be mapped before."""
    weights = map_resnet_weights(plain_weights, model)
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    assert torch.equal(model(images), plain(images))


@pytest.mark.parametrize('swap', [False, True])
def test_casts_with_a_layer_that_is_wrapped(route, swap):
    model = timm.create_model(f'se_resnet50_{route}', layers=(1, 1, 1, 1), device='meta')
    model.layer1[0].se_standard.fc1 = nn.Sequential(model.layer1[0].se_standard.fc1)
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        assert {p.dtype for p in model.half().to_empty(device='cpu').parameters()} == {torch.float16}
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model.layer2[0].se_standard.fc1.weight.std() > 0.1


def test_the_first_convolution_that_the_pretrained_cfg_names(route, images):
    stem = dict(stem_type='deep', stem_width=32, avg_down=True, in_chans=1, layers=(1, 1, 1, 1))
    weights = timm.create_model('resnet50', **stem | dict(in_chans=3)).state_dict()
    ours, plain = (timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights, first_conv='conv1.0'), **stem).eval()
        for name in (f'se_resnet50_{route}', 'resnet50'))
    assert torch.equal(ours(images[:, :1]), plain(images[:, :1]))


@pytest.mark.parametrize('norm_layer', [
    partial(BatchNormAct2d, act_layer=nn.SiLU), partial(nn.BatchNorm2d, affine=False), RmsNorm2d],
    ids=['activation', 'BatchNorm2d', 'RmsNorm2d'])
def test_any_norm(route, images, norm_layer):
    settings = dict(norm_layer=norm_layer, layers=(1, 1, 1, 1), zero_init_last=False)
    plain = timm.create_model('resnet50', **settings).eval()
    ours = shake_(timm.create_model(f'se_resnet50_{route}', **settings)).eval()
    ours.load_state_dict(plain.state_dict())
    assert torch.equal(ours(images), plain(images))


@pytest.mark.parametrize('given', [None, 'model.pth', nn.Linear(1, 1)], ids=str)
def test_what_is_no_state_dict(model, given):
    """torch's own error; the mapping's must be no TypeError, which timm takes for a filter that wants no model."""
    with pytest.raises(TypeError, match='dict-like'):
        model.load_state_dict(given)
    with pytest.raises(RuntimeError, match=rf'Expected a state dict, got a {type(given).__name__}'):
        map_resnet_weights(given, model)
