"""A ResNet-50's weights file to a checkpoint folder with SE."""
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from ..squeeze_excite import SEConfig
from ..weights import map_resnet_weights, recognise
from .card import CardConfig
from .folder import save_checkpoint
from .load import read_weights

__all__ = ['Conversion', 'convert_checkpoint', 'model_name']

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Conversion:
    """What `convert_checkpoint` did: what it recognised the file as, and the model and folder it made of it."""
    recognised: str
    model: str
    num_classes: int
    new_head: bool
    folder: str

    def __str__(self) -> str:
        head = f'a new head of {self.num_classes} classes' if self.new_head else f'{self.num_classes} classes'
        return (
            f'Recognised {self.recognised}.\nWrote {self.model} with {head} to {self.folder}.\n'
            f"Load it: timm.create_model('local-dir:{self.folder}', pretrained=True)")


def model_name(route: str) -> str:
    """The name in timm's registry of the model of a route; raises a ValueError if there is no such route."""
    if route not in ('replace', 'patch'):
        raise ValueError(f"route={route!r}: expected 'replace' or 'patch'.")
    return f'se_resnet50_{route}'


def convert_checkpoint(
        path: str | os.PathLike,
        folder: str | os.PathLike,
        *,
        route: str = 'replace',
        config: SEConfig = SEConfig(),
        num_classes: int | None = None,
        tag: str | None = None,
        portable: bool = False,
) -> Conversion:
    """Make a checkpoint folder with SE from a ResNet-50's weights file; it computes what the ResNet-50 computed.

    Args:
        path: See `read_weights`: the weights of a plain ResNet-50, or of one with SE already and settings `config`.
        folder: Folder to write, see `save_checkpoint`.
        route: 'replace' or 'patch': which of the two models the folder names.
        config: Settings of the SE modules.
        num_classes: Classes of the model, by default as many as the file has. With another number the head is new
            and random.
        tag: The pretrained tag of timm's resnet50 that the weights are, or started from, for example 'tv2_in1k';
            its preprocessing, license and origin then go along. By default the preprocessing is that of timm's own
            default and nothing is said about license and origin.
        portable: Write timm's own `seresnet50`, as `save_checkpoint(portable=True)` does.

    Returns:
        What was done.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or an argument is none of the above.
        RuntimeError: The weights are not a ResNet-50's, or do not have these settings. Nothing is written.
    """
    name = model_name(route)
    if num_classes is not None and num_classes < 0:
        raise ValueError(f'num_classes={num_classes}: expected at least 0 (0 is no head).')
    weights = read_weights(path)
    if tag is not None:
        name = f'{name}.{tag}'
        if name not in timm.list_pretrained('se_resnet50_*'):
            tags = ', '.join(n.partition('.')[2] for n in timm.list_pretrained(f'se_resnet50_{route}.*'))
            raise ValueError(f'tag={tag!r}: expected one of {tags}.')
    _check_sizes(path, weights)
    head, stem = weights.get('fc.weight'), weights.get('conv1.weight')
    found = 0 if head is None or head.ndim != 2 else head.shape[0]
    model: Any = timm.create_model(
        name, num_classes=found, in_chans=3 if stem is None or stem.ndim != 4 else stem.shape[1], **config.model_args())
    dtypes = [value.dtype for value in weights.values() if value.is_floating_point()]
    if dtypes:
        model.to(reduce(torch.promote_types, dtypes))  # of several, one that all fit into
    model.load_state_dict(map_resnet_weights(weights, model))
    new_head = num_classes not in (None, found)
    if new_head:
        model.reset_classifier(num_classes)
    # without a tag, timm gave the model the origin of its default tag
    card = CardConfig(base_model=None, license=None) if tag is None else CardConfig()
    written = save_checkpoint(model, Path(folder), card=card, portable=portable)
    return Conversion(recognise(weights), 'seresnet50' if portable else name, model.num_classes, new_head, str(written))


def _check_sizes(path: str | os.PathLike, weights: Mapping[str, Tensor]) -> None:
    """Raise a ValueError for what a model could be made of, and not a ResNet-50: its size is taken from the weights."""
    for key, value in weights.items():
        if value.is_floating_point() and value.dtype not in _DTYPES:
            raise ValueError(f'{path}: {key!r} has dtype {value.dtype}, which torch does not compute with; expected '
                             f"one of {', '.join(map(str, _DTYPES))}. Convert the weights first: value.float().")
    for key, ndim, expected in (
            ('fc.weight', 2, '(classes, 2048)'), ('conv1.weight', 4, '(64, input channels, 7, 7)')):
        # what is no ResNet at all is told so when it is loaded
        if {key, 'layer1.0.conv1.weight'} <= weights.keys() and (weights[key].ndim != ndim or 0 in weights[key].shape):
            raise ValueError(f'{path}: {key!r} has shape {tuple(weights[key].shape)}; expected {expected}, '
                             'none of them zero.')
