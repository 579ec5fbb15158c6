"""The tasks: photographs of solar cells, Fashion-MNIST, scikit-learn's digits; none of the images is copied here."""
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ['FASHION', 'TASKS', 'Task']

FASHION = Path('/usr/share/datasets/fashion-mnist')
CLOTHES = ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'ankle boot')
Part = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """Images, (N, H, W) in 0 to 1, and labels, (N,), in three parts that share none.

    Args:
        name: Of the task.
        train: To train on.
        val: To choose the learning rate by.
        test: To report.
        classes: Their names.
        flips: Turn each training image over, left to right and upside down, at random.
    """
    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    flips: bool = False

    def batch(self, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A network's input, (N, 3, H, W): normalized with the task's own training mean and deviation."""
        mean, std = self.statistics
        images = ((images - mean) / std).to(device)
        return images[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    @cached_property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.train[0].mean(), self.train[0].std()


def fashion(size: int, folder: Path) -> Task:
    """Fashion-MNIST, 70,000 images of 28 px: 55,000 to train on, 5,000 to choose by, 10,000 to test."""
    def part(name):
        images = _read_idx(folder / f'{name}-images-idx3-ubyte.gz').float() / 255
        images = F.pad(images, (2, 2, 2, 2))
        return _resize(images, size), _read_idx(folder / f'{name}-labels-idx1-ubyte.gz').long()

    (images, labels), held_out = part('train'), len(part('t10k')[1]) // 2
    return Task('fashion', (images[:-held_out], labels[:-held_out]), (images[-held_out:], labels[-held_out:]),
                part('t10k'), CLOTHES)


def digits(size: int, folder: Path) -> Task:
    """scikit-learn's 1,797 digits of 8 px: every fourth to test (449), every eighth to choose by (225)."""
    from sklearn.datasets import load_digits
    data = load_digits()
    images = _resize(torch.from_numpy(data.images).float() / 16, size)
    kind = torch.arange(len(images)) % 8
    labels = torch.from_numpy(data.target).long()
    return _split('digits', images, labels, kind, classes=tuple('0123456789'))


def solar(size: int, folder: Path) -> Task:
    """2,624 photographs of solar cells, 300 px: is the cell broken? (elpv-dataset; probability of 0.5 and more.)"""
    from elpv_dataset.utils import load_dataset
    images, probability, _ = load_dataset()
    kind = torch.from_numpy(np.random.RandomState(0).permutation(len(images))) % 8
    labels = torch.from_numpy(np.asarray(probability) >= 0.5).long()
    images = _resize(torch.from_numpy(images).float() / 255, size)
    return _split('solar', images, labels, kind, ('good', 'broken'), flips=True)


TASKS: dict[str, Callable[[int, Path], Task]] = {'solar': solar, 'fashion': fashion, 'digits': digits}


def _split(
        name: str,
        images: torch.Tensor,
        labels: torch.Tensor,
        kind: torch.Tensor,
        classes: tuple[str, ...],
        flips: bool = False,
) -> Task:
    """A task of images of 8 kinds: two to test, one to choose by, five to train on."""
    test, val = kind % 4 == 3, kind == 0
    parts = ((images[i], labels[i]) for i in (~(test | val), val, test))
    return Task(name, *parts, classes, flips)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images[:, None], size=size, mode='bilinear', antialias=size < images.shape[-1])[:, 0]


def _read_idx(path: Path) -> torch.Tensor:
    """Read a gzipped IDX file of unsigned bytes (the format of MNIST): a magic number 0x0000080D, D sizes, the data."""
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is missing; `apt-get install dataset-fashion-mnist`, or name its folder by --data.')
    with gzip.open(path) as f:
        content = f.read()
    if content[:3] != b'\x00\x00\x08' or not 1 <= content[3] <= 3:
        raise ValueError(f'{path} is no IDX file of unsigned bytes (it starts with {content[:4].hex()}).')
    sizes = np.frombuffer(content, '>i4', content[3], offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes).copy())
