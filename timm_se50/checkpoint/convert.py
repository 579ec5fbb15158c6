"""A ResNet's weights file to a checkpoint folder with SE."""
import os
from functools import reduce
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.models.resnet import ResNet

from ..squeeze_excite import SEConfig
from ..weights import map_resnet_weights, naming, recognise
from .card import CardConfig
from .folder import save_checkpoint
from .load import read_weights
from .network import network_args
from .outline import first_conv

__all__ = ['convert_checkpoint']


def convert_checkpoint(
        path: str | os.PathLike,
        folder: str | os.PathLike,
        *,
        model: str = 'resnet50',
        route: str = 'replace',
        config: SEConfig = SEConfig(),
        num_classes: int | None = None,
        portable: bool = False,
) -> dict[str, Any]:
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
        What was done: what the file was `recognised` as, the `model`, its `num_classes`, `new_head`, and the `folder`.

    Raises:
        FileNotFoundError, ValueError: The file cannot be read, or an argument is none of the above.
        RuntimeError: The weights are not that ResNet's, or do not have these settings. Nothing is written.
    """
    weights = read_weights(path)
    with torch.device('meta'):
        plain: Any = timm.create_model(model)
    if type(plain) is not ResNet:
        raise ValueError(f'model={model!r} is a {type(plain).__name__}; expected one of timm.models.resnet.')
    name, origin = f'se_resnet50_{route}', cast(dict[str, Any], plain.pretrained_cfg)
    with naming(path):
        head, stem = weights.get('fc.weight'), weights.get(f'{first_conv(plain)}.weight')
        found, channels = 0 if head is None else head.shape[0], 3 if stem is None else stem.shape[1] or 3
    converted: Any = timm.create_model(
        name, num_classes=found, in_chans=channels, pretrained_cfg={**origin, 'architecture': name},
        **network_args(plain), **config.model_args())
    with naming(path):
        mapped = map_resnet_weights(weights, converted)
        dtypes = [value.dtype for value in weights.values() if value.is_floating_point()]
        converted.to(reduce(torch.promote_types, dtypes)).load_state_dict(mapped)  # of several, one that all fit into
    new_head = num_classes not in (None, found)
    if new_head:
        converted.reset_classifier(num_classes)
    # without a tag, timm gave the model the origin of its default tag
    named = origin if '.' in model else {}
    card = CardConfig(base_model=named.get('hf_hub_id'), license=named.get('license'))
    written = save_checkpoint(converted, Path(folder), card=card, portable=portable)
    return {
        'recognised': recognise(weights), 'model': 'seresnet50' if portable else name,
        'num_classes': converted.num_classes, 'new_head': new_head, 'folder': str(written)}
