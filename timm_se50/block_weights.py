"""One block's weights, by their names in the block: a plain block's, timm's with SE, ours."""
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .squeeze_excite import LOGIT_SCALE, POSITIONS, SE_WEIGHTS, SEModule, like_parameter
from .stock import BATCH_NORMS

__all__ = ['TIMM_SE', 'from_timm', 'map_block_weights', 'to_timm']

TIMM_SE = frozenset(f'se.{name}' for name in SE_WEIGHTS)  # what timm's seresnet50 has beside a plain block's weights


def map_block_weights(block: Any, weights: Mapping[str, Tensor], assign: bool = False) -> Mapping[str, Tensor]:
    """What a block with SE is to load.

    Args:
        block: The block.
        weights: A plain block's, which come out with those of a neutral SE module; timm's with SE, which come out as
            ours; or any others, which come out as they went in.
        assign: They are to become the block's parameters, so those of SE take the device and dtype of the others.
    """
    slot, norm = POSITIONS[block.se_position], getattr(block, block.last_norm)
    se, names = getattr(block, slot), set(block.state_dict())
    ours = {f'{slot}.{name}' for name in SE_WEIGHTS}
    if not isinstance(se, SEModule) or not ours <= names:  # the user's own, or with adapters in it
        return weights
    if _is_complete(weights, names - ours):
        first = next(v for v in weights.values() if v.is_floating_point())
        like: dict[str, Any] = dict.fromkeys(SE_WEIGHTS, first) if assign else dict(se.named_parameters())
        return {**weights, **{f'{slot}.{n}': like_parameter(v, like[n]) for n, v in se.initial_weights().items()}}
    linear = type(norm) in BATCH_NORMS
    if linear and se.neutral and slot == POSITIONS['standard'] and _is_complete(weights, names - ours | TIMM_SE):
        return from_timm(weights, block.last_norm)
    return weights


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
