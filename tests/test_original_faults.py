"""The faults of the code that this package replaces (DESIGN 2) stay dead."""
import torch

from timm_se50 import SEConfig, SEModule, se_parameters


def test_running_statistics_are_carried(create50, route, plain50, images):
    """The original's layer1 was off by 68 %."""
    model = create50(route)
    assert not torch.equal(plain50.layer1[0].bn3.running_mean, torch.zeros(256))
    x, y = model.maxpool(model.act1(model.bn1(model.conv1(images)))), plain50.maxpool(
        plain50.act1(plain50.bn1(plain50.conv1(images))))
    assert torch.equal(model.layer1(x), plain50.layer1(y))


def test_num_classes_is_obeyed(create50, route, plain50, images):
    model = create50(route, num_classes=30)
    assert model(images).shape == (2, 30)
    assert torch.equal(model.forward_features(images), plain50.forward_features(images))


def test_every_se_parameter_is_registered_and_learns(insert_, plain50, images):
    insert_(plain50, SEConfig())
    modules = {m for m in plain50.modules() if isinstance(m, SEModule)}
    assert len(modules) == 16
    assert sum(p.numel() for p in se_parameters(plain50)) == 2_530_992
    assert {id(p) for p in se_parameters(plain50)} <= {id(p) for p in plain50.parameters()}

    optimizer = torch.optim.SGD(plain50.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        plain50.train()(images).square().mean().backward()
        for module in modules:
            assert module.fc2.weight.grad.any()
            assert module.fc2.bias.grad.any()
            # a zero fc2 passes nothing back to fc1 in the first step
            assert bool(module.fc1.weight.grad.any()) == (step == 1)
            assert bool(module.fc1.bias.grad.any()) == (step == 1)
        optimizer.step()


def test_se_is_saved_moved_and_cast(insert_, plain50):
    insert_(plain50, SEConfig())
    assert sum('.se_standard.' in k for k in plain50.state_dict()) == 16 * 4
    assert all(p.dtype is torch.float64 for p in se_parameters(plain50.double()))
    assert all(p.is_meta for p in se_parameters(plain50.to('meta')))
