"""A model, or weights alone, from what a user names."""
import os

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ..weights import clean_weights, naming
from .outline import read_config

__all__ = ['load_model', 'read_weights']


def load_model(checkpoint: str, weights: bool = True, **kwargs) -> nn.Module:
    """Load a model, in eval mode.

    Args:
        checkpoint: A folder with config.json and weights, or any name `timm.create_model()` takes: 'hf-hub:...',
            'local-dir:...', 'se_resnet50_patch.tv2_in1k'.
        weights: Load the weights, too.
        **kwargs: Arguments of `timm.create_model()`.

    Returns:
        The model.

    Raises:
        ValueError: It is neither; the message says why.
        FileNotFoundError: The folder does not exist, or holds no checkpoint.
        RuntimeError: timm cannot load it; the message says why.
    """
    folder = checkpoint.removeprefix('local-dir:')
    if os.path.isdir(folder):
        if not os.path.isfile(os.path.join(folder, 'config.json')):
            raise FileNotFoundError(
                f'{folder} holds no config.json; expected a folder of save_checkpoint() or `timm-se50 convert`.')
        read_config(folder)
        checkpoint = f'local-dir:{folder}'
    elif os.path.isfile(folder):
        raise ValueError(
            f'{folder} is a file; expected a checkpoint folder. Make one of it: timm-se50 convert {folder} FOLDER.')
    elif checkpoint != folder or os.path.isdir(os.path.dirname(folder)):
        raise FileNotFoundError(f'{folder}: there is no such folder.')
    try:
        return timm.create_model(checkpoint, pretrained=weights, **kwargs).eval()
    except Exception as e:  # what a wrong config makes of timm has no bound, nor what is no Hub id
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
    if os.path.isdir(path):
        raise FileNotFoundError(f'{path} is a folder; expected a file with weights, for example model.safetensors.')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: there is no such file.')
    with naming(path):
        return clean_weights(load_state_dict(str(path)))
