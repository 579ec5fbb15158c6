"""Images from files and folders, as a model wants them."""
import os
from collections.abc import Sequence

from PIL import Image
from timm.data import create_reader, create_transform, resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader, default_collate

__all__ = ['find_images', 'image_batches']


def find_images(paths: Sequence[str | os.PathLike]) -> list[tuple[str, str]]:
    """Images and their classes: an image's class is the name of the folder that it lies in.

    Args:
        paths: Image files, and folders in which timm looks for image files, at any depth.

    Returns:
        (path, class) of each image, in order of the paths and names.

    Raises:
        FileNotFoundError: A path does not exist.
        RuntimeError: A folder holds no images.
    """
    found: list[str] = []
    for path in map(str, paths):
        if not os.path.exists(path):
            raise FileNotFoundError(f'{path}: there is no such image or folder.')
        found += create_reader('', path).filenames(absolute=True) if os.path.isdir(path) else [path]
    return [(file, os.path.basename(os.path.dirname(os.path.abspath(file)))) for file in found]


def image_batches(
        images: Sequence[tuple[str, str]],
        classes: Sequence[str],
        model: nn.Module,
        size: int | None = None,
        batch_size: int = 32,
) -> DataLoader:
    """Images as a model wants them.

    Args:
        images: (path, class) of each, see `find_images`.
        classes: Names of the classes.
        model: A timm model; its pretrained_cfg says how to resize and normalize.
        size: Height and width in pixels, by default that of the pretrained_cfg.
        batch_size: Images a batch.

    Returns:
        Batches, (N, C, H, W), and the index of each image's class, (N,).

    Raises:
        OSError: Of a batch: an image cannot be read; the message names it.
        ValueError: The model takes neither 1 nor 3 channels.
    """
    config = resolve_model_data_config(model)
    channels = config['input_size'][0]
    if channels not in (1, 3):
        raise ValueError(f'The model takes {channels} channels; images are of 1 or 3.')
    if size is not None:
        config['input_size'] = (channels, size, size)
    transform = create_transform(**config)

    def load(path):
        try:
            with Image.open(path) as image:
                return transform(image.convert('L' if channels == 1 else 'RGB'))
        except Exception as e:  # what a damaged image makes of Pillow has no bound
            raise OSError(f'{path} cannot be read as an image: {e}') from e

    return DataLoader(images, batch_size, collate_fn=lambda batch: default_collate(  # type: ignore[arg-type]
        [(load(path), classes.index(name)) for path, name in batch]))
