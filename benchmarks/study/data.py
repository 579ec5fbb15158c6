"""The two tasks: Fashion-MNIST (Debian's dataset-fashion-mnist) and the digits of scikit-learn, at 32 px."""
import gzip
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ['FASHION', 'Task', 'load_digits_task', 'load_fashion_task']

FASHION = Path('/usr/share/datasets/fashion-mnist')
CLASSES = ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'ankle boot')


@dataclass(frozen=True)
class Task:
    """Images, (N, 32, 32) in 0 to 1, and labels, (N,), to train on and to test on, and their normalization."""
    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    classes: tuple[str, ...]

    def batch(self, images: torch.Tensor) -> torch.Tensor:
        """A network's input, (N, 3, 32, 32): normalized with the task's own training mean and deviation."""
        mean, std = self.statistics
        return ((images - mean) / std)[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    @cached_property
    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.train[0].mean(), self.train[0].std()


def load_fashion_task(folder: Path, test_images: int) -> Task:
    """Fashion-MNIST: 60,000 images of 28 px, padded to 32, and the first `test_images` of its 10,000 test images."""
    def part(name):
        images = F.pad(_read_idx(folder / f'{name}-images-idx3-ubyte.gz').float() / 255, (2, 2, 2, 2))
        return images, _read_idx(folder / f'{name}-labels-idx1-ubyte.gz').long()

    test = part('t10k')
    return Task('fashion', part('train'), (test[0][:test_images], test[1][:test_images]), CLASSES)


def load_digits_task(test_images: int) -> Task:
    """scikit-learn's 1,797 digits of 8 px, enlarged to 32; every fourth is a test image (449; the first of them)."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    images = torch.from_numpy(digits.images).float() / 16
    images = F.interpolate(images[:, None], size=32, mode='bilinear', align_corners=False)[:, 0]
    labels = torch.from_numpy(digits.target).long()
    test = torch.arange(len(labels)) % 4 == 3
    test_part = images[test][:test_images], labels[test][:test_images]
    return Task('digits', (images[~test], labels[~test]), test_part, tuple('0123456789'))


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
