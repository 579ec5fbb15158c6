"""Parameter groups for an optimizer of one's own; `timm.optim.create_optimizer_v2(model, ...)` needs none."""
from collections.abc import Collection
from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn

from .squeeze_excite import SEModule, se_parameters

__all__ = ['param_groups']


def param_groups(
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        se_lr: float | None = None,
) -> list[dict[str, Any]]:
    """A model's trainable parameters in groups, as timm's optimizer factory has them, SE's with a rate of their own.

    No weight decay for biases, norms, the `fc2` of neutral SE modules (which LAMB and LARS would hold back), and what
    the model's own `no_weight_decay()` names.

    Args:
        model: A model with SE, or what holds one.
        lr: Learning rate.
        weight_decay: Weight decay of the parameters that get one.
        se_lr: Learning rate of SE's parameters, by default `lr`.

    Returns:
        Groups with 'params', 'lr' and 'weight_decay', for any optimizer of PyTorch or timm.

    Raises:
        ValueError: The model has no SE module.
    """
    se = set(se_parameters(model))
    if not se:
        raise ValueError(
            f'The {type(model).__name__} has no SE module; put SE in first, with replace_blocks_(model).')
    neutral = {f'{name}.fc2.weight' for name, m in model.named_modules() if isinstance(m, SEModule) and m.neutral}
    theirs: Collection[str] = getattr(model, 'no_weight_decay', set)()
    groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=neutral | set(theirs))
    split = []
    for group in groups:
        for of_se, rate in ((False, lr), (True, lr if se_lr is None else se_lr)):
            params = [p for p in group['params'] if (p in se) == of_se]
            if params:
                split.append({**group, 'params': params, 'lr': rate})
    return split
