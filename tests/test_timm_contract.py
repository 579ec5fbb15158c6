"""Every argument of timm's resnet50, and what timm's models offer beside the forward, against timm's resnet50."""
import copy

import pytest
import timm
import torch
from helpers import NARROW
from timm.layers import BlurPool2d
from timm.models import checkpoint_seq, group_parameters
from torch import nn

ARGUMENTS = [
    dict(num_classes=0),
    dict(num_classes=7),
    dict(in_chans=1),
    dict(in_chans=5),
    dict(global_pool='max'),
    dict(global_pool='catavgmax', num_classes=7),
    dict(global_pool='', num_classes=0),
    dict(output_stride=16),
    dict(output_stride=8),
    dict(act_layer='silu'),
    dict(aa_layer=BlurPool2d),
    dict(aa_layer=nn.AvgPool2d),
    dict(drop_rate=0.5),
    dict(drop_path_rate=0.3),
    dict(drop_block_rate=0.2),
]


@pytest.mark.parametrize('arguments', ARGUMENTS, ids=str)
def test_argument(create, route, plain_file, images, arguments):
    """Same result, and same random numbers drawn, in train mode; the new head's init is random, so it is copied."""
    model = create(route, **arguments).train()
    reference = timm.create_model(
        'resnet50', pretrained=True, pretrained_cfg_overlay=dict(file=str(plain_file)), **arguments, **NARROW).train()
    reference.fc.load_state_dict(model.fc.state_dict())
    x = images[:, :1].repeat(1, arguments.get('in_chans', 3), 1, 1)
    outputs = []
    for m in (model, reference):
        torch.manual_seed(4)
        outputs.append(m(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize('arguments', [
    dict(), dict(out_indices=(2, 4)), dict(feature_cls='fx'), dict(feature_cls='hook'), dict(feature_cls='getter')],
    ids=str)
def test_features_only(create, route, plain_file, images, arguments):
    model = create(route, features_only=True, **arguments)
    reference = timm.create_model(
        'resnet50', pretrained=True, pretrained_cfg_overlay=dict(file=str(plain_file)), features_only=True,
        **arguments, **NARROW)
    assert model.feature_info.channels() == reference.feature_info.channels()
    assert model.feature_info.reduction() == reference.feature_info.reduction()
    features = model(images)
    assert len(features) == len(model.feature_info.channels())
    assert all(map(torch.equal, features, reference.eval()(images)))


def test_forward_intermediates(create, route, plain, images):
    ours, theirs = create(route).forward_intermediates(images), plain.forward_intermediates(images)
    assert torch.equal(ours[0], theirs[0])
    assert all(map(torch.equal, ours[1], theirs[1]))


def test_gradient_checkpointing(create, route, images):
    """Same logits and gradients; BatchNorm is frozen, for it would count the recomputed forward as a second step."""
    plain = create(route)
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    outputs = [model(images) for model in (plain, checkpointed)]
    for output in outputs:
        output.square().sum().backward()
    assert torch.equal(*outputs)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True))
    x = torch.ones(1, 64, 8, 8)
    assert torch.equal(checkpoint_seq(checkpointed.layer1, x), plain.layer1(x))


def test_reset_classifier(create, route, plain, images):
    model = create(route)
    for classes, pool in ((5, None), (0, None), (3, 'max'), (0, '')):
        for m in (model, plain):
            torch.manual_seed(5)
            m.reset_classifier(classes, pool)
        assert model.num_classes == classes
        assert torch.equal(model(images), plain(images))


def test_group_matcher_puts_se_with_its_block(route):
    """For layer-wise learning-rate decay; the groups of all other parameters are timm's."""
    model, plain = (timm.create_model(name, device='meta') for name in (f'se_resnet50_{route}', 'resnet50'))
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    expected = group_parameters(plain, plain.group_matcher(), reverse=True)
    assert {k: v for k, v in groups.items() if '.se_standard.' not in k} == expected
    for key in groups:
        if '.se_standard.' in key:
            assert groups[key] == groups[key.partition('.se_standard.')[0] + '.conv3.weight']
