"""What trains, and how: parameter groups for an optimizer of one's own, and SE alone."""
from collections.abc import Collection
from functools import partial
from typing import Any, TypeVar

from timm.optim import param_groups_weight_decay
from torch import nn

from .squeeze_excite import SEModule, se_parameters

__all__ = ['param_groups', 'train_only_se_']

ModelT = TypeVar('ModelT', bound=nn.Module)


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
        raise ValueError(_no_se(model))
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


def train_only_se_(model: ModelT) -> ModelT:
    """Have SE and the classifier train and nothing else: all other weights are frozen, in place.

    So are the running statistics: BatchNorm stays in eval mode, whatever mode the model is in. What the ResNet computes
    below its gates stays what it was, bit for bit.

    Args:
        model: A model with SE. Its classifier is what its `get_classifier()` gives, or `fc`; of a model that has
            neither, a detector say, set `requires_grad_()` for the head afterwards.

    Returns:
        The model.

    Raises:
        ValueError: The model has no SE module.
    """
    trained: list[Any] = [m for m in model.modules() if isinstance(m, SEModule)]
    if not trained:
        raise ValueError(_no_se(model))
    model.requires_grad_(False)
    head: Any = getattr(model, 'get_classifier', lambda: getattr(model, 'fc', None))
    for module in filter(None, (*trained, head())):
        module.requires_grad_()
    for module in model.modules():
        if getattr(module, 'running_mean', None) is not None:
            module.eval()
            module.train = partial(_stay, module)  # type: ignore[method-assign]  # what model.train() calls on each
    return model


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _no_se(model: nn.Module) -> str:
    return f'The {type(model).__name__} has no SE module; put SE in first, with replace_blocks_(model).'
