"""The gates: recorded, averaged and judged as the numbers say, and the model left as it was."""
import contextlib

import pytest
import timm
import torch
from helpers import changed, shake_
from torch import nn

import timm_se50
from timm_se50.gates import BlockGates, collect_gates, gate_warnings, recording_gates
from timm_se50.squeeze_excite import POSITIONS
from timm_se50.weights import seresnet50_weights


class _Known(nn.Module):
    """An SE module of two channels whose gate is sigmoid(relu(mean of the channel))."""

    def __init__(self):
        super().__init__()
        self.se = timm_se50.SEModule(2, reduction=1)
        for fc in (self.se.fc1, self.se.fc2):
            nn.init.eye_(fc.weight.data[:, :, 0, 0])
            nn.init.zeros_(fc.bias)

    def forward(self, x):
        return self.se(x)


def _images(*values: float) -> torch.Tensor:
    """One image a value: channel 0 has it on average, channel 1 is zero."""
    noise = torch.tensor([[-1.0, 1.0], [2.0, -2.0]])
    return torch.stack([torch.stack([v + noise, torch.zeros(2, 2)]) for v in values])


def _block(mean, std=0.1, scale=1.0, count=(3, 5)) -> BlockGates:
    mean = torch.tensor(mean, dtype=torch.float64)
    return BlockGates('layer1.0.se', scale, ('a', 'b'), torch.tensor(count).double(), mean, torch.full_like(mean, std))


def _se_model(position: str = 'standard', **kwargs) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model('se_resnet50_patch', num_classes=5, se_position=position, zero_init_last=False, **kwargs)
    return model.eval()


def test_known_gates_by_class():
    batches = [(_images(1.0, 3.0), torch.tensor([0, 1])), (_images(2.0), torch.tensor([0]))]
    [block] = collect_gates(_Known(), batches, ['cat', 'dog', 'never seen'])
    gates = torch.tensor([1.0, 2.0, 3.0]).sigmoid().double()
    assert block.name == 'se'
    assert block.classes == ('cat', 'dog')
    assert block.count.tolist() == [2, 1]
    torch.testing.assert_close(block.mean[:, 0], torch.stack([gates[:2].mean(), gates[2]]), atol=1e-7, rtol=0)
    torch.testing.assert_close(block.std[:, 0], torch.stack([gates[:2].std(correction=0), torch.tensor(0.0).double()]),
                               atol=1e-7, rtol=0)
    assert block.mean[:, 1].tolist() == [0.5, 0.5]
    torch.testing.assert_close(block.overall_mean[0], gates.mean(), atol=1e-7, rtol=0)
    torch.testing.assert_close(block.overall_std[0], gates.std(correction=0), atol=1e-7, rtol=0)


def test_summary_splits_the_spread():
    summary = _block([[0.2, 0.5], [0.6, 0.5]], std=0.3, count=(1, 1)).summary()
    assert summary['mean'] == pytest.approx(0.45)
    assert summary['within_classes'] == pytest.approx(0.3)
    assert summary['between_classes'] == pytest.approx((0.2 + 0) / 2)


@pytest.mark.parametrize('position', POSITIONS)
def test_gates_are_those_that_the_forward_uses(position):
    model, passed = _se_model(position), []
    for se in (m for m in model.modules() if isinstance(m, timm_se50.SEModule)):
        se.register_forward_hook(lambda se, args, out: passed.append((args[0].clone(), out.clone())))
    with torch.no_grad(), recording_gates(model) as gates:
        model(torch.randn(2, 3, 32, 32))
    assert len(gates) == 16
    for gate, (given, output) in zip(gates.values(), passed, strict=True):
        assert torch.equal(given * gate[:, :, None, None], output)


def test_new_se_is_neutral_and_stuck():
    model = timm.create_model('resnet50', num_classes=5)
    timm_se50.replace_blocks_(model, timm_se50.SEConfig(stages=(2,)))
    blocks = collect_gates(model, [(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 1]))], ['a', 'b'])
    names = [f'layer2.{i}.se_standard' for i in range(4)]
    assert [b.name for b in blocks] == names
    assert all((b.mean == 1).all() and (b.overall_std == 0).all() for b in blocks)
    [warning] = gate_warnings(blocks)
    assert warning.startswith(f'stuck: {", ".join(names)}.')
    assert 'param_groups(model, lr, weight_decay, se_lr=10 * lr)' in warning


def test_gates_of_timms_own_model_are_the_same():
    """Ours run from 0 to 2, timm's from 0 to 1."""
    ours = shake_(_se_model())
    timms = timm.create_model('seresnet50', num_classes=5)
    timms.load_state_dict(seresnet50_weights(ours))
    batch = [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))]
    for a, b in zip(collect_gates(ours, batch, 'ab'), collect_gates(timms, batch, 'ab'), strict=True):
        assert a.name == b.name.replace('.se', '.se_standard')
        assert (a.scale, b.scale) == (2.0, 1.0)
        assert torch.equal(a.mean, 2 * b.mean)
        assert torch.equal(a.std, 2 * b.std)
        assert a.overall_std.max() > 0.01


@pytest.mark.parametrize('channels', [3, 4])
def test_model_is_left_as_it_was(channels):
    """After an error, too."""
    model = _se_model(drop_rate=0.5).train()
    model.layer1.eval()
    modes = [m.training for m in model.modules()]
    weights, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    x = torch.ones(2, channels, 32, 32)
    with pytest.raises(RuntimeError, match='channels') if channels == 4 else contextlib.nullcontext():
        collect_gates(model, [(x, torch.tensor([0, 0]))], ['a'])
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert not changed(model, weights)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(('block', 'expected'), [
    (_block([[0.4, 0.6], [0.5, 0.5]]), None),
    (_block([[0.5, 0.5], [0.5, 0.5]], std=0.0009), 'stuck'),
    (_block([[0.5, 0.5], [0.5, 0.5]], std=0.0011), None),
    (_block([[0.5, 0.5], [0.6, 0.5]], std=0), None),  # classes differ
    (_block([[1.0, 1.0], [1.0, 1.0]], std=0.0019, scale=2.0), 'stuck'),
    (_block([[0.5, 0.5]], std=0, count=(1,)), None),  # one image cannot vary
    (_block([[0.981, 0.019]] * 2), 'saturated'),
    (_block([[0.979, 0.021]] * 2), None),
    (_block([[0.99, 0.5]] * 2), None),  # half of the channels are not most
    (_block([[1.99, 1.99]] * 2, scale=2.0), 'saturated'),
    (_block([[0.99, 0.99]] * 2, scale=2.0), None),
])
def test_warnings(block, expected):
    warnings = gate_warnings([block])
    assert (not warnings) if expected is None else warnings[0].startswith(f'{expected}: layer1.0.se.')


def test_a_model_without_se_and_no_images_are_refused():
    with pytest.raises(ValueError, match='ResNet holds no SE modules'):
        collect_gates(timm.create_model('resnet10t'), [], ['a'])
    with pytest.raises(ValueError, match='no images'):
        collect_gates(_Known(), [], ['a'])
