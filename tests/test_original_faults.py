"""The faults of the code that this package replaces (DESIGN 2) stay dead."""
import timm
import torch

from timm_se50 import SEConfig, SEModule, se_parameters


def test_running_statistics_are_carried(create, route, plain, images):
    """The original's layer1 was off by 68 %."""
    model = create(route)
    assert not torch.equal(plain.layer1[0].bn3.running_mean, torch.zeros(256))
    x, y = model.maxpool(model.act1(model.bn1(model.conv1(images)))), plain.maxpool(
        plain.act1(plain.bn1(plain.conv1(images))))
    assert torch.equal(model.layer1(x), plain.layer1(y))


def test_num_classes_is_obeyed(create, route, plain, images):
    model = create(route, num_classes=30)
    assert model(images).shape == (2, 30)
    assert torch.equal(model.forward_features(images), plain.forward_features(images))


def test_every_se_parameter_is_registered_and_learns(insert_, plain, images):
    insert_(plain, SEConfig())
    modules = {m for m in plain.modules() if isinstance(m, SEModule)}
    assert len(modules) == 16
    assert sum(p.numel() for p in se_parameters(plain)) == 2_530_992
    assert {id(p) for p in se_parameters(plain)} <= {id(p) for p in plain.parameters()}

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        plain.train()(images).square().mean().backward()
        for module in modules:
            assert module.fc2.weight.grad.any()
            assert module.fc2.bias.grad.any()
            # a zero fc2 passes nothing back to fc1 in the first step
            assert bool(module.fc1.weight.grad.any()) == (step == 1)
            assert bool(module.fc1.bias.grad.any()) == (step == 1)
        optimizer.step()


def test_se_is_saved_moved_and_cast(insert_, plain):
    insert_(plain, SEConfig())
    assert sum('.se_standard.' in k for k in plain.state_dict()) == 16 * 4
    assert all(p.dtype is torch.float64 for p in se_parameters(plain.double()))
    assert all(p.is_meta for p in se_parameters(plain.to('meta')))


def test_the_models_have_a_forward(route):
    assert timm.create_model(f'se_resnet50_{route}', device='meta')(torch.empty(1, 3, 64, 64, device='meta')).shape == (
        1, 1000)
