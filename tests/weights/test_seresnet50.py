"""At r = 16 in all stages it is timm's seresnet50."""
import pytest
import timm
import torch
from helpers import settle_, shake_


@pytest.fixture(scope='module')
def twin():
    torch.manual_seed(0)
    return settle_(timm.create_model('seresnet50', num_classes=10))


def test_checkpoints_go_both_ways(route, twin, images):
    model = timm.create_model(f'se_resnet50_{route}', num_classes=10).eval()
    assert list(model.state_dict()) == list(twin.state_dict())
    assert [v.shape for v in model.state_dict().values()] == [v.shape for v in twin.state_dict().values()]

    model.load_state_dict(twin.state_dict(), strict=True)
    assert torch.equal(model(images), twin(images))

    shake_(model)
    other = timm.create_model('seresnet50', num_classes=10).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(images), model(images))
    assert not torch.equal(other(images), twin(images))


def test_one_training_step_and_its_optimizer_go_both_ways(route, twin, images):
    """Same gradients, and same parameter order, on which an optimizer's state goes."""
    model = timm.create_model(f'se_resnet50_{route}', num_classes=10)
    other = timm.create_model('seresnet50', num_classes=10)
    model.load_state_dict(twin.state_dict())
    other.load_state_dict(twin.state_dict())
    optimizers = []
    for m in (model, other):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9)
        m.train()(images).square().sum().backward()
        optimizer.step()
        optimizers.append(optimizer)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())
    ours, theirs = (o.state_dict()['state'] for o in optimizers)
    assert all(torch.equal(ours[i]['momentum_buffer'], theirs[i]['momentum_buffer']) for i in theirs)
    assert ours.keys() == theirs.keys()


def test_any_other_setting_is_not_taken_for_it(route, twin):
    for settings in (dict(se_reduction=8), dict(se_stages=(3, 4)), dict(se_position='post')):
        model = timm.create_model(f'se_resnet50_{route}', num_classes=10, **settings)
        with pytest.raises(RuntimeError, match='The weights look like an SE-ResNet-50'):
            model.load_state_dict(twin.state_dict())
