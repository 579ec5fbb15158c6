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


def is_se_key(key: str) -> bool:
    """Whether a state-dict key belongs to one of our, or timm's, SE modules."""
    return not _SLOTS.keys().isdisjoint(key.split('.'))


def recognise(state_dict: Mapping[str, Tensor]) -> str:
    """Describe a state dict by its keys and shapes, for example 'a ResNet-101'."""
    if not state_dict:
        return 'an empty file'
    if not all(isinstance(key, str) for key in state_dict):
        return 'no state dict (its keys are no names)'
    first = next(iter(state_dict))
    if 'param_groups' in state_dict or 'optimizer' in state_dict:
        return "an optimizer's state or a training checkpoint"
    state_dict = {k: v for k, v in state_dict.items() if isinstance(v, Tensor) and not v.is_nested}
    if any('.se_module.' in k for k in state_dict) or 'layer0.conv1.weight' in state_dict:
        return "a legacy (Cadene) SE-ResNet, timm's legacy_seresnet*, which has its stride on conv1"
    depths = [_depth(state_dict, f'layer{stage}') for stage in (1, 2, 3, 4)]
    conv2 = state_dict.get('layer1.0.conv2.weight')
    if not all(depths) or conv2 is None or conv2.ndim != 4:
        return f'no ResNet (its first key is {first!r})'

    bottleneck = 'layer1.0.conv3.weight' in state_dict
    name = f'ResNet-{2 + sum(depths) * (3 if bottleneck else 2)}'  # the convolutions, but for shortcuts, and fc
    if conv2.shape[1] != conv2.shape[0]:
        name = name.replace('ResNet', 'ResNeXt')
    elif bottleneck and conv2.shape[0] != 64:
        name = f'Wide-{name}'
    if 'conv1.0.weight' in state_dict:
        pooled = 'layer2.0.downsample.1.running_mean' not in state_dict  # of a shortcut's 0, 1, 2 the pooling is 0
        name += '-D (a deep stem and an average-pooled shortcut)' if pooled else '-C (a deep stem)'
    settings = _se_settings(state_dict)
    if settings:
        return f'an SE-{name} ({settings})'
    foreign = next((k for k in state_dict if re.match(r'layer\d\.\d+\.\w+\.', k) and not _PLAIN.match(k)), None)
    return f'a {name}' + (f' with another attention, or SE in another form ({foreign!r})' if foreign else '')


def _depth(state_dict: Mapping[str, Tensor], layer: str) -> int:
    return len({m[1] for m in (re.match(rf'{layer}\.(\d+)\.', k) for k in state_dict) if m})


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
