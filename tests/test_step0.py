"""With a plain ResNet-50's weights, the model computes what that ResNet-50 computes, bit for bit."""
import copy

import pytest
import timm
import torch
from helpers import ROUTES, by_turns

from timm_se50 import SEConfig, se_parameters

SETTINGS = [
    dict(),
    dict(se_reduction=4),
    dict(se_stages=(4,)),
    dict(se_stages=(1, 3), se_reduction=(8, 32)),
    dict(se_stages=(2, 3, 4), se_reduction=(2, 4, 64)),
]


def assert_same_step(model, plain, x):
    """Equal logits in eval mode; in train mode equal logits and equal running statistics after the step."""
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert torch.equal(model.train()(x), plain.train()(x))
    statistics = {k: v for k, v in plain.state_dict().items() if 'running_' in k or 'num_batches' in k}
    assert len(statistics) == 3 * 53
    state = model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in statistics.items())


@pytest.mark.parametrize(('settings', 'route'), by_turns(SETTINGS), ids=str)
def test_every_setting(create50, route, plain50, images, settings):
    assert_same_step(create50(route, **settings), plain50, images)


def test_created_in_bfloat16(create50, route, plain50, images):
    assert_same_step(create50(route, dtype=torch.bfloat16), plain50.bfloat16(), images.bfloat16())


def test_live_model_that_an_optimizer_holds(insert_, plain50, images):
    """The surgery keeps the very parameters, so the optimizer goes on."""
    reference = copy.deepcopy(plain50)
    optimizer = torch.optim.SGD(plain50.parameters(), lr=0.1, momentum=0.9)
    plain50.train()(images).sum().backward()
    reference.train()(images).sum().backward()
    before = dict(plain50.named_parameters())
    gradients = {k: p.grad for k, p in before.items()}

    assert insert_(plain50, SEConfig()) is plain50

    after = dict(plain50.named_parameters())
    assert all(after[k] is p and after[k].grad is gradients[k] for k, p in before.items())
    assert_same_step(plain50, reference, images)

    weight = plain50.layer1[0].conv1.weight.clone()
    optimizer.add_param_group(dict(params=se_parameters(plain50)))
    optimizer.step()
    assert not torch.equal(plain50.layer1[0].conv1.weight, weight)


@pytest.mark.parametrize('name', [f'se_resnet50_{route}' for route in ROUTES])
def test_without_weights_it_is_an_ordinary_random_init(name):
    """As timm initialises its resnet50, a zero last norm among it; SE is neutral, its fc1 as in timm's seresnet50.

    The order is that one's too, which an optimizer's state goes by.
    """
    model, twin = timm.create_model(name), timm.create_model('seresnet50')
    theirs = dict(twin.named_parameters())
    assert [key.replace('se_standard', 'se') for key, _ in model.named_parameters()] == list(theirs)
    for key, value in model.named_parameters():
        if '.fc1.weight' in key:
            # a standard deviation of 4096 values or more is known to 1 / sqrt(2 * 4096), 1.1 %: 5 sigma
            assert value.std().item() == pytest.approx(theirs[key.replace('se_standard', 'se')].std().item(), rel=0.06)
            assert value.std() > 0.01
        elif '.fc2.' in key:
            assert not value.any()
    assert not model.layer1[0].bn3.weight.any()
    assert model.conv1.weight.std() > 0.01
