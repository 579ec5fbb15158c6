"""One block's weights, by their names in the block: a plain block's, timm's with SE, ours."""
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from .squeeze_excite import LOGIT_SCALE, POSITIONS, SEModule, like_parameter

__all__ = ['TIMM_SE', 'from_timm', 'is_complete', 'map_block_weights', 'to_timm']

_SE_WEIGHTS = ('fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias')
# What timm's seresnet50 has beside a plain block's weights
TIMM_SE = frozenset(f'se.{name}' for name in _SE_WEIGHTS)
_OURS = POSITIONS['standard']


def map_block_weights(
        weights: Mapping[str, Tensor],
        names: Iterable[str],
        position: str,
        se: nn.Module,
        norm_name: str,
        norm: nn.Module,
        assign: bool = False,
) -> Mapping[str, Tensor]:
    """What a block with SE is to load: a plain block's weights with those of a neutral SE module, timm's as ours.

    Args:
        weights: Of the file, by name in the block. Others than the two kinds come out as they went in.
        names: Of all that the block itself has in its state dict.
        position: Of its SE module.
        se: That module.
        norm_name: Name of the block's last norm.
        norm: That norm.
        assign: The weights are to become the block's parameters: those of SE then take device and dtype of the others.
    """
    slot = POSITIONS[position]
    ours = {f'{slot}.{name}' for name in _SE_WEIGHTS}
    plain = {name for name in names if not name.startswith(f'{slot}.')}
    if not isinstance(se, SEModule) or not ours <= set(names):  # an SE module of the user's, or with adapters
        return weights
    if is_complete(weights, plain):
        values = {f'{slot}.{name}': v for name, v in se.initial_weights().items()}
        like: dict[str, Tensor] = {f'{slot}.{name}': p for name, p in se.named_parameters()}
        if assign:
            like = dict.fromkeys(like, next(v for v in weights.values() if v.is_floating_point()))
        return {**weights, **{name: like_parameter(v, like[name]) for name, v in values.items()}}
    known = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)  # linear in weight and bias
    if position == 'standard' and se.neutral and known and is_complete(weights, plain | TIMM_SE):
        return from_timm(weights, norm_name)
    return weights


def is_complete(weights: Iterable[str], names: Iterable[str]) -> bool:
    """Whether there are all names, and no other ones. What counts batches may be missing, as in older files."""
    found, expected = ({n for n in them if not n.endswith('num_batches_tracked')} for them in (weights, names))
    return found == expected


def from_timm(weights: Mapping[str, Tensor], norm_name: str) -> dict[str, Tensor]:
    """A block's weights in timm's seresnet50 -> ours that compute the same, exactly: all factors are powers of two.

    timm's gate is `sigmoid(fc2(relu(fc1(mean(y)))))` of the norm's output y, ours 2 * sigmoid(4 * fc2(...)) of y / 2.
    """
    factors = _factors(norm_name)
    return {
        name.replace('se.', f'{_OURS}.', 1) if name in TIMM_SE else name: v * factors[name] if name in factors else v
        for name, v in weights.items()}


def to_timm(weights: Mapping[str, Tensor], norm_name: str) -> dict[str, Tensor]:
    """The reverse of `from_timm`."""
    factors = _factors(norm_name)
    named = {name.replace(f'{_OURS}.', 'se.', 1) if name.startswith(f'{_OURS}.') else name: v
             for name, v in weights.items()}
    return {name: v / factors[name] if name in factors else v for name, v in named.items()}


def _factors(norm_name: str) -> dict[str, float]:
    return {
        f'{norm_name}.weight': 0.5, f'{norm_name}.bias': 0.5, 'se.fc1.weight': 2.0,
        'se.fc2.weight': 1 / LOGIT_SCALE, 'se.fc2.bias': 1 / LOGIT_SCALE}
