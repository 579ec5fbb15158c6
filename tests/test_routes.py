"""The two routes are one network, built in two ways."""
import copy

import pytest
import timm
import torch
from helpers import NARROW, ROUTES, shake_
from timm.models.resnet import Bottleneck

from timm_se50 import SEBottleneck, SEConfig, SEModule

CONFIGS = [SEConfig(), SEConfig(reduction=(4, 8), stages=(2, 4))]


@pytest.mark.parametrize('settings', [
    dict(), dict(se_stages=(2, 4), se_reduction=(4, 8)), *(dict(se_position=p) for p in ('pre', 'post', 'identity')),
], ids=str)
def test_same_keys_logits_gradients_and_statistics(settings, images):
    """Given the same, non-neutral weights; over two training steps."""
    models = [timm.create_model(f'se_resnet50_{route}', num_classes=10, **NARROW, **settings) for route in ROUTES]
    models[1].load_state_dict(shake_(models[0]).state_dict())
    assert list(models[0].state_dict()) == list(models[1].state_dict())
    outputs = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            output = model.train()(images)
            output.square().sum().backward()
            optimizer.step()
        outputs.append(output)
    assert torch.equal(*outputs)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
        assert torch.equal(a, b), name
    assert all(map(torch.equal, models[0].buffers(), models[1].buffers()))


@pytest.mark.parametrize('config', CONFIGS, ids=str)
def test_patch_keeps_every_block_and_replace_every_submodule(insert_, route, plain, config):
    blocks = {n: m for n, m in plain.named_modules() if isinstance(m, Bottleneck)}
    children = {n: dict(b.named_children()) for n, b in blocks.items()}
    parameters = {n: p for n, p in plain.named_parameters()}
    plain.layer4.train()

    insert_(plain, config)

    for name, block in blocks.items():
        new = plain.get_submodule(name)
        has_se = int(name[5]) in config.stages
        assert isinstance(new, SEBottleneck) == has_se
        assert (new is block) == (route == 'patch' or not has_se)
        assert {m.training for m in new.modules()} == {name.startswith('layer4')}
        assert new.stride == block.stride
        assert {k: v for k, v in new.named_children() if not isinstance(v, SEModule)} == children[name]
        if route == 'replace' and has_se:
            assert type(block) is Bottleneck, 'the old block was changed'
            assert dict(block.named_children()) == children[name], 'the old block was changed'
    now = dict(plain.named_parameters())
    assert all(now[n] is p for n, p in parameters.items())


def test_each_block_has_an_se_module_of_its_own(insert_, plain, images):
    """The original's patch closed over a loop variable: one module for all six blocks of layer3."""
    insert_(plain, SEConfig())
    modules = [m for m in plain.modules() if isinstance(m, SEModule)]
    assert len({id(m) for m in modules}) == 16
    called = []
    for module in modules:
        module.register_forward_hook(lambda module, args, output: called.append(module))
    plain(images)
    assert called == modules


def test_block_hooks_of_every_kind_still_fire(insert_, plain, images):
    fired, given = [], []
    block = plain.layer2[0]
    block.register_forward_pre_hook(lambda *args: fired.append('forward_pre'))
    block.register_forward_hook(lambda *args: fired.append('forward'))
    block.register_full_backward_hook(lambda *args: fired.append('backward'))
    block.register_state_dict_pre_hook(lambda *args: fired.append('state_dict'))
    block.register_load_state_dict_pre_hook(lambda module, *args: given.append(module))
    weights = plain.state_dict()
    del block
    insert_(plain)
    fired.clear()
    plain(images).sum().backward()
    plain.state_dict()
    assert fired == ['forward_pre', 'forward', 'backward', 'state_dict']
    plain.load_state_dict(weights)
    copied = copy.deepcopy(plain)
    copied.load_state_dict(weights)
    assert given == [plain.layer2[0], copied.layer2[0]]  # with one route the block is another than it was
