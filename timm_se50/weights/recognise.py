"""What a state dict looks like, in a few words for an error message or a user."""
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..squeeze_excite import POSITIONS

__all__ = ['is_plain', 'is_se_key', 'recognise']

_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (1, 1, 1, 1)): 'ResNet-10',
    (False, (2, 2, 2, 2)): 'ResNet-18',
    (False, (3, 4, 6, 3)): 'ResNet-34',
    (True, (1, 1, 1, 1)): 'ResNet-14',
    (True, (2, 2, 2, 2)): 'ResNet-26',
    (True, (3, 4, 6, 3)): 'ResNet-50',
    (True, (3, 4, 23, 3)): 'ResNet-101',
    (True, (3, 8, 36, 3)): 'ResNet-152',
}


def is_se_key(key: str) -> bool:
    """Whether a state-dict key belongs to one of our, or timm's, SE modules."""
    return any(part in POSITIONS.values() for part in key.split('.'))


def is_plain(state_dict: Mapping[str, Any]) -> bool:
    """Whether a state dict is of a network without SE."""
    return not any(map(is_se_key, state_dict))


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Describe a state dict by its keys and shapes, for example 'a ResNet-101'."""
    if not state_dict:
        return 'an empty file'
    if 'param_groups' in state_dict or 'optimizer' in state_dict:
        return "an optimizer's state or a training checkpoint"
    if any('.se_module.' in k for k in state_dict) or 'layer0.conv1.weight' in state_dict:
        return "a legacy (Cadene) SE-ResNet, timm's legacy_seresnet*, which has its stride on conv1"
    depths = [_depth(state_dict, f'layer{stage}') for stage in (1, 2, 3, 4)]
    conv2 = state_dict.get('layer1.0.conv2.weight')
    if not all(depths) or not isinstance(conv2, Tensor) or conv2.ndim != 4:
        return f'no ResNet (its first key is {next(iter(state_dict))!r})'

    bottleneck = 'layer1.0.conv3.weight' in state_dict
    name = _DEPTHS.get((bottleneck, tuple(depths)), f'ResNet of {"-".join(map(str, depths))} blocks')
    if conv2.shape[1] != conv2.shape[0]:
        name = name.replace('ResNet', 'ResNeXt')
    elif bottleneck and conv2.shape[0] != 64:
        name = f'Wide-{name}'
    if 'conv1.0.weight' in state_dict:
        name += '-D (a deep stem and an average-pooled shortcut)' if _avg_down(state_dict) else '-C (a deep stem)'
    if is_plain(state_dict):
        return f'a {name}'
    settings = _se_settings(state_dict)
    return f'an SE-{name} ({settings})' if settings else f'a {name} with another attention than SE'


def _depth(state_dict: Mapping[str, Tensor], layer: str) -> int:
    return len({m[1] for m in (re.match(rf'{layer}\.(\d+)\.', k) for k in state_dict) if m})


def _avg_down(state_dict: Mapping[str, Tensor]) -> bool:
    weight = state_dict.get('layer2.0.downsample.1.weight')  # 0 is the pooling, which has no weight
    return weight is not None and weight.ndim == 4


def _se_settings(state_dict: Mapping[str, Tensor]) -> str:
    """Position, stages and reductions, so that a user can copy them into `se_position`, `se_stages`, `se_reduction`."""
    position, reductions = 'standard', {}
    for key, value in state_dict.items():
        match = re.fullmatch(r'layer(\d)\.\d+\.(\w+)\.fc1\.weight', key)
        if match and value.ndim == 4 and match[2] in POSITIONS.values():
            position = next(p for p, name in POSITIONS.items() if name == match[2])
            reductions[int(match[1])] = value.shape[1] // value.shape[0]
    if not reductions:
        return ''
    each = tuple(reductions.values())
    reduction = each[0] if len(set(each)) == 1 else each
    return f'se_stages={tuple(reductions)}, se_reduction={reduction}, se_position={position!r}'
