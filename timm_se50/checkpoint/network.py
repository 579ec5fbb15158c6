"""The arguments of timm's ResNet, read off a network: timm notes what its caller passed, not its entry point."""
from collections.abc import Mapping
from typing import Any

from timm.layers import BlurPool2d, get_act_layer
from timm.layers.create_act import _ACT_LAYER_DEFAULT  # the names that get_act_layer() takes
from timm.models.resnet import Bottleneck
from torch import nn

__all__ = ['network_args']

# What timm's ResNet, and so our models, have by default
_DEFAULTS: Mapping[str, Any] = {
    'block': 'bottleneck', 'layers': (3, 4, 6, 3), 'channels': (64, 128, 256, 512), 'stem_width': 64, 'stem_type': '',
    'replace_stem_pool': False, 'output_stride': 32, 'cardinality': 1, 'base_width': 64, 'block_reduce_first': 1,
    'down_kernel_size': 1, 'avg_down': False, 'aa_layer': None, 'act_layer': 'relu', 'norm_layer': 'batchnorm2d'}
_AA_NAMES = {nn.AvgPool2d: 'avg', BlurPool2d: 'blur'}


def network_args(model: Any) -> dict[str, Any]:
    """What `se_resnet50_replace` has to be given to be a network of this shape, in plain values.

    Args:
        model: A ResNet of timm, with SE or without.

    Returns:
        The arguments that are not the default ones. Whether they describe the network is for the caller to see: a layer
        that was exchanged afterwards is not among them.
    """
    stages: list[list[Any]] = [list(getattr(model, f'layer{i}')) for i in (1, 2, 3, 4)]
    blocks = [block for stage in stages for block in stage]
    kinds = ['bottleneck' if isinstance(stage[0], Bottleneck) else 'basic' for stage in stages]
    first = blocks[0]
    channels = [
        stage[0].conv3.out_channels // 4 if kind == 'bottleneck' else stage[0].conv2.out_channels
        for kind, stage in zip(kinds, stages)]
    convs = [m for block in blocks for m in (block.downsample or ()) if isinstance(m, nn.Conv2d)]
    args = {
        **_stem(model),
        'block': kinds[0] if len(set(kinds)) == 1 else kinds,
        'layers': tuple(map(len, stages)),
        'channels': tuple(channels),
        'output_stride': 32 >> sum(stage[0].stride == 1 for stage in stages[1:]),
        'block_reduce_first': first.conv2.out_channels // first.conv1.out_channels,
        'down_kernel_size': max((conv.kernel_size[0] for conv in convs), default=1),
        'avg_down': any(len(block.downsample or ()) == 3 for block in blocks),
        'aa_layer': next((_AA_NAMES.get(type(b.aa)) for b in blocks if not isinstance(b.aa, nn.Identity)), None),
        'act_layer': _act_name(model.act1),
        'norm_layer': _norm_name(model.bn1),
    }
    if 'bottleneck' in kinds:  # its conv2 has floor(channels * base_width / 64) * cardinality channels
        i = kinds.index('bottleneck')
        conv = stages[i][0].conv2
        args |= {'cardinality': conv.groups, 'base_width': -(-conv.out_channels * 64 // (conv.groups * channels[i]))}
    return {k: v for k, v in args.items() if v != _DEFAULTS[k]}


def _stem(model: Any) -> dict[str, Any]:
    pool = isinstance(model.maxpool, nn.Sequential) and isinstance(model.maxpool[0], nn.Conv2d)
    if not isinstance(model.conv1, nn.Sequential):
        return {'replace_stem_pool': pool}
    first, second = (model.conv1[i].out_channels for i in (0, 3))
    return {'replace_stem_pool': pool, 'stem_type': 'deep' if first == second else 'deep_tiered', 'stem_width': second}


def _act_name(layer: nn.Module) -> str:
    names = (name for name in _ACT_LAYER_DEFAULT if get_act_layer(name) is type(layer))
    return next(names, type(layer).__name__)


def _norm_name(layer: nn.Module) -> str:
    return 'batchnorm2d' if 'BatchNorm' in type(layer).__name__ else type(layer).__name__.lower()
