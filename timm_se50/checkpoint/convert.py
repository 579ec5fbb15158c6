"""A ResNet's weights file to a checkpoint folder with SE."""
import os
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor

from ..squeeze_excite import SEConfig
from ..weights import map_resnet_weights, naming, recognise
from .card import CardConfig
from .folder import save_checkpoint
from .load import read_weights
from .network import network_args

__all__ = ['Conversion', 'convert_checkpoint', 'model_name']


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
        model: str = 'resnet50',
        route: str = 'replace',
        config: SEConfig = SEConfig(),
        num_classes: int | None = None,
        portable: bool = False,
) -> Conversion:
    """Make a checkpoint folder with SE from a ResNet's weights file; it computes what the ResNet computed.

    Args:
        path: See `read_weights`: the weights of a plain ResNet, or of one with SE already and settings `config`.
        folder: Folder to write, see `save_checkpoint`.
        model: timm's name of the plain ResNet, for example 'resnet101d'. With the pretrained tag that the weights are,
            or started from, as in 'resnet50.tv2_in1k', its preprocessing, license and origin go along; without one the
            preprocessing is that of timm's own default and nothing is said about license and origin.
        route: 'replace' or 'patch': which of the two models the folder names.
        config: Settings of the SE modules.
        num_classes: Classes of the model, by default as many as the file has. With another number the head is new
            and random.
        portable: Write timm's own `seresnet50`, as `save_checkpoint(portable=True)` does.

    Returns:
        What was done.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or an argument is none of the above.
        RuntimeError: The weights are not that ResNet's, or do not have these settings. Nothing is written.
    """
    name = model_name(route)
    if num_classes is not None and num_classes < 0:
        raise ValueError(f'num_classes={num_classes}: expected at least 0 (0 is no head).')
    if model not in (*timm.list_models('*resne*'), *timm.list_pretrained('*resne*')):
        near = timm.list_pretrained(f'{model.partition(".")[0]}.*') or timm.list_models('resne*')
        raise ValueError(f'model={model!r}: timm knows no such ResNet; expected one of {", ".join(near)}.')
    weights = read_weights(path)
    found, channels = _classes_and_channels(weights)
    with torch.device('meta'):
        plain: Any = timm.create_model(model)
    if type(plain) is not ResNet:
        raise ValueError(f'model={model!r} is a {type(plain).__name__}; expected one of timm.models.resnet.')
    origin = cast(dict[str, Any], plain.pretrained_cfg)
    converted: Any = timm.create_model(
        name, num_classes=found, in_chans=channels, pretrained_cfg={**origin, 'architecture': name},
        **network_args(plain), **config.model_args())
    dtypes = [value.dtype for value in weights.values() if value.is_floating_point()]
    with naming(path):
        if dtypes:
            converted.to(reduce(torch.promote_types, dtypes))  # of several, one that all fit into
        converted.load_state_dict(map_resnet_weights(weights, converted))
    new_head = num_classes not in (None, found)
    if new_head:
        converted.reset_classifier(num_classes)
    # without a tag, timm gave the model the origin of its default tag
    named = origin if '.' in model else {}
    card = CardConfig(base_model=named.get('hf_hub_id'), license=named.get('license'))
    written = save_checkpoint(converted, Path(folder), card=card, portable=portable)
    return Conversion(
        recognise(weights), 'seresnet50' if portable else name, converted.num_classes, new_head, str(written))


def _classes_and_channels(weights: dict[str, Tensor]) -> tuple[int, int]:
    """As many as the first and the last layer of a file have; what does not fit otherwise is told when it is loaded."""
    head, stem = weights.get('fc.weight'), weights.get('conv1.weight', weights.get('conv1.0.weight'))
    classes = 0 if head is None or head.ndim != 2 else len(head)
    return classes, 3 if stem is None or stem.ndim != 4 else stem.shape[1] or 3
