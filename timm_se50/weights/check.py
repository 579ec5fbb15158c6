"""Whether weights fit a model: every key and shape is judged before anything is loaded."""
from collections.abc import Mapping, Sequence
from typing import Any

from .recognise import is_plain, is_se_key, recognise

__all__ = ['check_weights']


def check_weights(
        source: Mapping[str, Any],
        target: Mapping[str, Any],
        adaptable: bool = False,
        first_convs: str | Sequence[str] = (),
) -> None:
    """Raise a RuntimeError for the first key or shape of weights that is not the model's.

    Args:
        source: The weights. Those of SE modules may be missing, all of them.
        target: The model's state dict.
        adaptable: Let differ what `timm.create_model()` adapts: the classifier, and the input channels of
            `first_convs`.
        first_convs: Name of the first convolution, or of several.
    """
    def adapted(key):
        return adaptable and key.startswith('fc.')

    plain = is_plain(source)
    expected = {k: _shape(v) for k, v in target.items() if not (plain and is_se_key(k))}
    stems = {f'{name}.weight' for name in ([first_convs] if isinstance(first_convs, str) else first_convs)}
    classifier_problems = []
    for key, shape in expected.items():
        if key not in source:
            # for files older than torch 0.4.1, BatchNorm fills num_batches_tracked in by itself
            if adapted(key) or key.endswith('num_batches_tracked'):
                continue
            if not key.startswith('fc.'):
                _refuse(f'{key!r} is missing', source, target)
            classifier_problems.append(f'{key!r} is missing')
            continue
        found = _shape(source[key])
        if adaptable and key in stems:
            found, shape = (found[:1] + found[2:]), (shape[:1] + shape[2:])
        if found != shape and (found, shape) != ((1,), ()):  # torch takes the one number for the other
            problem = f'{key!r} has shape {_shape(source[key])}, expected {_shape(target[key])}'
            if not key.startswith('fc.'):
                _refuse(problem, source, target)
            classifier_problems.append(problem)
    for key in source:
        if key not in expected and not adapted(key):
            _refuse(f'{key!r} is no key of the model', source, target)
    if classifier_problems and not adaptable:  # and all else fits
        raise RuntimeError(
            f'{classifier_problems[0]}. The classifier of the weights is for another num_classes (0 if they have none) '
            'or global_pool. Create the model with those of the weights; model.reset_classifier() gives it a new one '
            'afterwards.')


def _shape(value: Any) -> tuple[int, ...]:
    """Of a tensor; a module may keep something else in its state dict, too."""
    return tuple(getattr(value, 'shape', ()))


def _refuse(problem: str, source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    raise RuntimeError(
        f'{problem}. The weights look like {recognise(source)}; the model is {recognise(target)}. '
        'Use weights of the same architecture (a plain ResNet or one with the same SE settings), '
        'or create the model with the settings of the weights.')
