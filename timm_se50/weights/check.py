"""Whether weights fit a model: every key and shape is judged before anything is loaded."""
from collections.abc import Mapping, Sequence
from typing import Any

from .recognise import is_se_key, recognise

__all__ = ['check_weights']


def check_weights(
        source: Mapping[str, Any],
        target: Mapping[str, Any],
        first_convs: str | Sequence[str] = (),
        file: Mapping[str, Any] | None = None,
) -> None:
    """Raise a RuntimeError for the first key or shape of weights that is not the model's.

    What `timm.create_model()` adapts may differ: the classifier, and the input channels of the first convolution.

    Args:
        source: The weights.
        target: The model's state dict.
        first_convs: Name of the first convolution, or of several.
        file: What the weights were before they were mapped, for the message.
    """
    stems = {f'{name}.weight' for name in (first_convs if isinstance(first_convs, (list, tuple)) else [first_convs])}
    problems = []  # with their order in a report: what says most about the file first
    for key, value in target.items():
        if key.startswith('fc.'):
            continue
        if key not in source:
            # for files older than torch 0.4.1, BatchNorm fills num_batches_tracked in by itself
            if not key.endswith('num_batches_tracked'):
                problems.append((2 if is_se_key(key) else 0, f'{key!r} is missing'))
            continue
        # a module may keep something else than a tensor in its state dict, too
        found, expected = (tuple(getattr(v, 'shape', ())) for v in (source[key], value))
        same = found[:1] + found[2:] == expected[:1] + expected[2:] if key in stems else found == expected
        if not same and (found, expected) != ((1,), ()):  # torch takes the one number for the other
            problems.append((0, f'{key!r} has shape {found}, expected {expected}'))
    problems += [
        (1, f'{key!r} is no key of the model') for key in source if key not in target and not key.startswith('fc.')]
    if problems:
        raise RuntimeError(
            f'{min(problems, key=lambda p: p[0])[1]}. The weights look like '
            f'{recognise(source if file is None else file)}; the model is {recognise(target)}. '
            'Use weights of the same architecture (a plain ResNet or one with the same SE settings), '
            'or create the model with the settings of the weights.')
