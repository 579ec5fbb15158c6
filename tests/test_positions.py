"""Each position of the paper, against a formula written from its figure 5."""

import pytest
import timm
import torch
from helpers import NARROW, changed, settle_, shake_
from torch.nn import functional as F

from timm_se50 import SEConfig, map_resnet_weights, replace_blocks_

POSITIONS = ('standard', 'pre', 'post', 'identity')
SLOTS = dict(standard='se_standard', pre='se_pre', post='se_post', identity='se_identity')


def scale(block, position, x):
    """Squeeze, excite, scale (equations 2 to 4 of the paper), from the block's weights, with the neutral gate."""
    se = getattr(block, SLOTS[position])
    z = x.mean(dim=(2, 3))
    s = torch.sigmoid(4 * F.linear(F.relu(F.linear(z, se.fc1.weight.flatten(1), se.fc1.bias)),
                                   se.fc2.weight.flatten(1), se.fc2.bias))
    return x * s[:, :, None, None] * 2


def residual(block, x):
    for i in (1, 2, 3):
        conv, bn = block.get_submodule(f'conv{i}'), block.get_submodule(f'bn{i}')
        x = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.padding)
        x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)
        x = F.relu(x) if i < 3 else x
    return x


def shortcut(block, x):
    return x if block.downsample is None else block.downsample(x)


FIGURE_5 = dict(
    standard=lambda block, x: F.relu(scale(block, 'standard', residual(block, x)) + shortcut(block, x)),
    pre=lambda block, x: F.relu(residual(block, scale(block, 'pre', x)) + shortcut(block, x)),
    post=lambda block, x: scale(block, 'post', F.relu(residual(block, x) + shortcut(block, x))),
    identity=lambda block, x: F.relu(residual(block, x) + scale(block, 'identity', shortcut(block, x))),
)


@pytest.mark.parametrize('position', POSITIONS)
def test_formula(position):
    """Blocks with and without a projected shortcut. Two float64 results, summed in another order, agree to 1e-12."""
    torch.manual_seed(0)
    model = settle_(timm.create_model('resnet50', num_classes=10, **NARROW))
    shake_(replace_blocks_(model, SEConfig(reduction=(4, 8, 16, 32), position=position))).double().eval()
    for layer, channels in ((model.layer1, 64), (model.layer3, 128)):
        x = torch.randn(2, channels, 8, 8, dtype=torch.float64).relu()
        for block in layer:
            expected = FIGURE_5[position](block, x)
            x = block(x.clone())
            torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('position', POSITIONS[1:])
def test_a_checkpoint_of_one_position_is_no_other_ones(position):
    """Shapes are the same, so the keys must tell them apart."""
    source = timm.create_model('se_resnet50_patch', se_position=position, **NARROW)
    twin = timm.create_model('se_resnet50_replace', se_position=position, **NARROW)
    twin.load_state_dict(source.state_dict())
    assert changed(twin, source.state_dict()) == []
    for other in set(POSITIONS) - {position}:
        model = timm.create_model('se_resnet50_patch', se_position=other, **NARROW)
        with pytest.raises(RuntimeError, match=f'se_position={position!r}'):
            map_resnet_weights(source.state_dict(), model)
