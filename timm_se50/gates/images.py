"""What a command is given: a checkpoint, and images."""
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.data.readers.img_extensions import get_img_extensions
from torch import nn

__all__ = ['find_images', 'image_batches', 'load_model']


def load_model(checkpoint: str, weights: bool = True) -> nn.Module:
    """Load a model, in eval mode.

    Args:
        checkpoint: A folder with config.json and weights, or any name `timm.create_model()` takes: 'hf-hub:...',
            'local-dir:...', 'se_resnet50_patch.tv2_in1k'.
        weights: Load the weights, too.

    Returns:
        The model.

    Raises:
        ValueError: It is neither.
        FileNotFoundError: The folder does not exist, or holds no checkpoint.
        RuntimeError: timm cannot load it; the message says why.
    """
    folder = checkpoint.removeprefix('local-dir:')
    if os.path.isdir(folder):
        if not os.path.isfile(os.path.join(folder, 'config.json')):
            raise FileNotFoundError(
                f'{folder} holds no config.json; expected a folder of save_checkpoint() or `timm-se50 convert`.')
        checkpoint = f'local-dir:{folder}'
    elif os.path.isfile(folder):
        raise ValueError(
            f'{folder} is a file; expected a checkpoint folder. Make one of it: timm-se50 convert {folder} FOLDER.')
    elif checkpoint != folder or os.path.isdir(os.path.dirname(folder)):
        raise FileNotFoundError(f'{folder}: there is no such folder.')
    try:
        return timm.create_model(checkpoint, pretrained=weights).eval()
    # the last ones where config.json is wrong, or the name is no Hub id
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as e:
        raise RuntimeError(f'{checkpoint} cannot be loaded: {type(e).__name__}: {e}') from e


def find_images(paths: Sequence[str | os.PathLike]) -> list[tuple[Path, str]]:
    """Images and their classes: an image's class is the name of the folder that it lies in.

    Args:
        paths: Image files, and folders to look for image files in at any depth.

    Returns:
        (path, class) of each image, in order of the paths and names.

    Raises:
        FileNotFoundError: A path does not exist, or a folder holds no images.
    """
    extensions = get_img_extensions(as_set=True)
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(p for p in path.rglob('*') if p.suffix.lower() in extensions)
            if not files:
                raise FileNotFoundError(f'{path} holds no images ({", ".join(sorted(extensions))}).')
        elif path.exists():
            files = [path]
        else:
            raise FileNotFoundError(f'{path}: there is no such image or folder.')
        found += [(file, file.absolute().parent.name) for file in files]
    return found


def image_batches(
        images: Sequence[tuple[Path, str]],
        classes: Sequence[str],
        model: nn.Module,
        size: int | None = None,
        batch_size: int = 32,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images as a model wants them.

    Args:
        images: (path, class) of each, see `find_images`.
        classes: Names of the classes.
        model: A timm model; its pretrained_cfg says how to resize and normalize.
        size: Height and width in pixels, by default that of the pretrained_cfg.
        batch_size: Images a batch.

    Yields:
        A batch, (N, 3, H, W), and the index of each image's class, (N,).

    Raises:
        OSError: An image cannot be read; the message names it.
    """
    config: dict[str, Any] = resolve_model_data_config(model)
    if size is not None:
        config['input_size'] = (config['input_size'][0], size, size)
    transform = create_transform(**config, is_training=False)
    mode = 'L' if config['input_size'][0] == 1 else 'RGB'
    index = {name: i for i, name in enumerate(classes)}
    for start in range(0, len(images), batch_size):
        chosen = images[start:start + batch_size]
        yield (
            torch.stack([transform(_read(path, mode)) for path, _ in chosen]),  # type: ignore[operator]
            torch.tensor([index[name] for _, name in chosen]))


def _read(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except (OSError, Image.DecompressionBombError) as e:
        raise OSError(f'{path} cannot be read as an image: {e}') from e
