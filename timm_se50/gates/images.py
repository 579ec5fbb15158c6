"""Images from files and folders, as a model wants them."""
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from timm.data.readers.img_extensions import get_img_extensions
from torch import nn

__all__ = ['find_images', 'image_batches']


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
            walk = os.walk(path, followlinks=True)  # as timm looks for them
            files = sorted(Path(root, name) for root, _, names in walk for name in names)
            files = [file for file in files if file.suffix.lower() in extensions]
            if not files:
                raise FileNotFoundError(f'{path} holds no images ({", ".join(sorted(extensions))}).')
        elif path.exists():
            files = [path]
        else:
            raise FileNotFoundError(f'{path}: there is no such image or folder.')
        found += [(file, Path(os.path.abspath(file)).parent.name) for file in files]
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
        ValueError: The model takes neither 1 nor 3 channels.
    """
    config: dict[str, Any] = resolve_model_data_config(model)
    if size is not None:
        config['input_size'] = (config['input_size'][0], size, size)
    transform = create_transform(**config, is_training=False)
    if config['input_size'][0] not in (1, 3):
        raise ValueError(f'The model takes {config["input_size"][0]} channels; images are of 1 or 3.')
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
    except Exception as e:  # what a damaged image makes of Pillow has no bound
        raise OSError(f'{path} cannot be read as an image: {e}') from e
