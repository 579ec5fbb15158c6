"""One block's weights, by their names in the block: a plain block's, timm's with SE, ours."""
import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn, zeros_like
from torchvision.ops.misc import FrozenBatchNorm2d

from .squeeze_excite import LOGIT_SCALE, POSITIONS, SE_WEIGHTS, SEModule

__all__ = ['BATCH_NORMS', 'from_timm', 'is_plain', 'map_block_weights', 'to_timm']

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)  # in eval mode all one affine map of the channels
TIMM_SE = frozenset(f'se.{name}' for name in SE_WEIGHTS)  # what timm's seresnet50 has beside a plain block's weights


def map_block_weights(weights: Mapping[str, Tensor], block: Any) -> Mapping[str, Tensor]:
    """What a block with SE is to load.

    Args:
        weights: A plain block's, which come out with a neutral SE module's, fc2 zero and fc1 what it is in the block;
            timm's with SE, which come out as ours; or any others, which come out as they went in.
        block: The block.
    """
    slot = POSITIONS[block.se_position]
    se, names = getattr(block, slot), _others(block)
    if names is None:
        return weights
    if _is_complete(weights, names):
        if se.fc1.weight.is_meta:  # as it is once it has memory
            se = copy.deepcopy(se).to_empty(device='cpu')
        neutral = {name: p if name.startswith('fc1') else zeros_like(p) for name, p in se.state_dict().items()}
        return {**weights, **{f'{slot}.{name}': p for name, p in neutral.items()}}
    linear = type(getattr(block, block.last_norm)) in BATCH_NORMS
    if linear and slot == POSITIONS['standard'] and _is_complete(weights.keys() | TIMM_SE, names | TIMM_SE):
        return from_timm(weights, block.last_norm)
    return weights


def is_plain(weights: Iterable[str], block: Any) -> bool:
    """Whether these are all weights that a block with SE has, but for those of its SE module, and no others."""
    names = _others(block)
    return names is not None and _is_complete(weights, names)


def _others(block: Any) -> set[str] | None:
    """The names of a block's weights but for SE's; None where SE is the user's own, or has adapters in it."""
    slot = POSITIONS[block.se_position]
    se, names, ours = getattr(block, slot), set(block.state_dict()), {f'{slot}.{name}' for name in SE_WEIGHTS}
    return names - ours if isinstance(se, SEModule) and se.neutral and ours <= names else None


def _is_complete(weights: Iterable[str], names: Iterable[str]) -> bool:
    """Whether there are all names, and no others. What counts batches may be missing, as in older files."""
    found, expected = ({n for n in them if not n.endswith('num_batches_tracked')} for them in (weights, names))
    return found == expected


def from_timm(weights: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """A block's weights in timm's seresnet50 -> ours that compute the same, exactly: all factors are powers of two.

    timm's gate is `sigmoid(fc2(relu(fc1(mean(y)))))` of the norm's output y, ours 2 * sigmoid(4 * fc2(...)) of y / 2.
    """
    factors = _factors(norm)
    scaled = {k: v * factors[k] if k in factors else v for k, v in weights.items()}
    return {k.replace('se.', 'se_standard.') if k in TIMM_SE else k: v for k, v in scaled.items()}


def to_timm(weights: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """The reverse of `from_timm`."""
    factors = _factors(norm)
    named = {k.replace('se_standard.', 'se.'): v for k, v in weights.items()}
    return {k: v / factors[k] if k in factors else v for k, v in named.items()}


def _factors(norm: str) -> dict[str, float]:
    return {f'{norm}.weight': 0.5, f'{norm}.bias': 0.5,
            'se.fc1.weight': 2.0, 'se.fc2.weight': 1 / LOGIT_SCALE, 'se.fc2.bias': 1 / LOGIT_SCALE}
