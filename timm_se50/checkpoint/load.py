"""A model, or weights alone, from what a user names."""
import os

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ..weights import clean_weights, naming

__all__ = ['load_model', 'read_weights']


def load_model(checkpoint: str, weights: bool = True, **kwargs) -> nn.Module:
    """Load a model, in eval mode.

    Args:
        checkpoint: A folder with config.json and weights, or any name `timm.create_model()` takes: 'hf-hub:...',
            'local-dir:...', 'se_resnet50_patch.tv2_in1k'.
        weights: Load the weights, too.
        **kwargs: Arguments of `timm.create_model()`.

    Raises:
        ValueError: It is a file.
        RuntimeError: timm cannot load it; the message says why.
    """
    if os.path.isdir(checkpoint):
        checkpoint = f'local-dir:{checkpoint}'
    elif os.path.isfile(checkpoint):
        raise ValueError(f'{checkpoint} is a file; expected a checkpoint folder. Make one of it: timm-se50 convert '
                         f'{checkpoint} FOLDER.')
    try:
        return timm.create_model(checkpoint, pretrained=weights, **kwargs).eval()
    except Exception as e:  # what a wrong config.json makes of timm has no bound, nor what is no Hub id
        raise RuntimeError(f'{checkpoint} cannot be loaded: {type(e).__name__}: {e}') from e


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a state dict from a file, as timm does: of several in it the averaged (EMA) one, and no pickled code.

    Args:
        path: A .safetensors file, or one of torch.save(): a state dict or a training checkpoint that holds one.

    Returns:
        Weights by key, without the prefixes of wrappers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
        RuntimeError: It holds something else; the message says what.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path} is no file; expected one with weights, for example model.safetensors.')
    with naming(path):
        return clean_weights(load_state_dict(str(path)))
