"""Whether weights fit a model: every key, shape and tensor is judged before anything is loaded."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .recognise import is_se_key, recognise

__all__ = ['check_data', 'check_weights']


def check_weights(
        source: Mapping[str, Any],
        target: Mapping[str, Any],
        adaptable: bool = False,
        first_convs: str | Sequence[str] = (),
        file: Mapping[str, Any] | None = None,
) -> None:
    """Raise a RuntimeError for the first key or shape of weights that is not the model's.

    Args:
        source: The weights.
        target: The model's state dict.
        adaptable: Let differ what `timm.create_model()` adapts: the classifier, and the input channels of
            `first_convs`.
        first_convs: Name of the first convolution, or of several.
        file: What the weights were before they were mapped, for the message.
    """
    stems = {f'{name}.weight' for name in ([first_convs] if isinstance(first_convs, str) else first_convs)}
    problems = []  # with their order in a report: what says most about the file first
    for key, value in target.items():
        classifier = key.startswith('fc.')
        if key not in source:
            # for files older than torch 0.4.1, BatchNorm fills num_batches_tracked in by itself
            if not ((adaptable and classifier) or key.endswith('num_batches_tracked')):
                problems.append((3 if classifier else 2 if is_se_key(key) else 0, f'{key!r} is missing'))
            continue
        found, expected = _shape(source[key]), _shape(value)
        same = found[:1] + found[2:] == expected[:1] + expected[2:] if adaptable and key in stems else found == expected
        # torch takes the one number for the other
        if not same and (found, expected) != ((1,), ()) and not (adaptable and classifier):
            problems.append((3 if classifier else 0, f'{key!r} has shape {found}, expected {expected}'))
    problems += [
        (1, f'{key!r} is no key of the model') for key in source
        if key not in target and not (adaptable and key.startswith('fc.'))]
    if not problems:
        return
    rank, problem = min(problems, key=lambda p: p[0])
    if rank == 3:  # and all else fits
        raise RuntimeError(
            f'{problem}. The classifier of the weights is for another num_classes (0 if they have none) '
            'or global_pool. Create the model with those of the weights; model.reset_classifier() gives it a new one '
            'afterwards.')
    looks_like = recognise(source if file is None else file)
    raise RuntimeError(
        f'{problem}. The weights look like {looks_like}; the model is {recognise(target)}. '
        'Use weights of the same architecture (a plain ResNet or one with the same SE settings), '
        'or create the model with the settings of the weights.')


def check_data(source: Mapping[str, Any], target: Mapping[str, Any], assign: bool = False) -> None:
    """Raise a RuntimeError for the first tensor that torch could not load, which it finds out in the midst of loading.

    Args:
        source: The weights.
        target: The model's state dict.
        assign: Whether the tensors become the model's.
    """
    for key, value in source.items():
        if not isinstance(value, Tensor) or not isinstance(target.get(key), Tensor):
            continue
        if value.is_nested or value.layout != torch.strided:
            kind = 'a nested tensor' if value.is_nested else f'a tensor of layout {value.layout}'
            raise RuntimeError(f'{key!r} is {kind}; expected a dense one: value.to_dense().')
        if value.is_meta and not (assign or target[key].is_meta):
            raise RuntimeError(f'{key!r} is on the meta device and so has no data; load the weights from their file.')


def _shape(value: Any) -> tuple[int, ...]:
    """Of a tensor; a module may keep something else in its state dict, too."""
    return tuple(getattr(value, 'shape', ()))
