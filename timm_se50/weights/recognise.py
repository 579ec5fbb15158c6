"""What a state dict looks like, in a few words for an error message or a user."""
import re
from collections.abc import Mapping

from torch import Tensor

from ..squeeze_excite import POSITIONS

__all__ = ['is_se_key', 'recognise']

# Names of SE modules in a block -> their position; timm's is `se`
_SLOTS = {name: position for position, name in POSITIONS.items()} | {'se': 'standard'}
# What a block without attention holds; other repositories name theirs se_layer, se_block, attn, ca, ...
_PLAIN = re.compile(r'layer\d\.\d+\.((conv|bn|act)\d|downsample|aa|drop_block|drop_path)\.')

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
    return not _SLOTS.keys().isdisjoint(key.split('.'))


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Describe a state dict by its keys and shapes, for example 'a ResNet-101'."""
    if not state_dict:
        return 'an empty file'
    if not all(isinstance(key, str) for key in state_dict):
        return 'no state dict (its keys are no names)'
    if 'param_groups' in state_dict or 'optimizer' in state_dict:
        return "an optimizer's state or a training checkpoint"
    if any('.se_module.' in k for k in state_dict) or 'layer0.conv1.weight' in state_dict:
        return "a legacy (Cadene) SE-ResNet, timm's legacy_seresnet*, which has its stride on conv1"
    depths = [_depth(state_dict, f'layer{stage}') for stage in (1, 2, 3, 4)]
    conv2 = state_dict.get('layer1.0.conv2.weight')
    if not all(depths) or not isinstance(conv2, Tensor) or conv2.is_nested or conv2.ndim != 4:
        return f'no ResNet (its first key is {next(iter(state_dict))!r})'

    bottleneck = 'layer1.0.conv3.weight' in state_dict
    name = _DEPTHS.get((bottleneck, tuple(depths)), f'ResNet of {"-".join(map(str, depths))} blocks')
    if conv2.shape[1] != conv2.shape[0]:
        name = name.replace('ResNet', 'ResNeXt')
    elif bottleneck and conv2.shape[0] != 64:
        name = f'Wide-{name}'
    if 'conv1.0.weight' in state_dict:
        name += '-D (a deep stem and an average-pooled shortcut)' if _avg_down(state_dict) else '-C (a deep stem)'
    settings = _se_settings(state_dict)
    if settings:
        return f'an SE-{name} ({settings})'
    foreign = next((k for k in state_dict if re.match(r'layer\d\.\d+\.\w+\.', k) and not _PLAIN.match(k)), None)
    return f'a {name}' + (f' with another attention, or SE in another form ({foreign!r})' if foreign else '')


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
        if match and value.ndim == 4 and match[2] in _SLOTS and value.shape[0]:
            position = _SLOTS[match[2]]
            reductions[int(match[1])] = value.shape[1] // value.shape[0]
    if not reductions:
        return ''
    each = tuple(reductions.values())
    reduction = each[0] if len(set(each)) == 1 else each
    return f'se_stages={tuple(reductions)}, se_reduction={reduction}, se_position={position!r}'
