"""The gates of a checkpoint and their table: what `timm-se50 gates` prints."""
import os
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from .gates import BlockGates, collect_gates, gate_warnings
from .inputs import find_images, image_batches, load_model

__all__ = ['examine_gates', 'format_gates', 'gates_to_dict']


def examine_gates(
        checkpoint: str,
        paths: Sequence[str | os.PathLike],
        size: int | None = None,
        batch_size: int = 32,
) -> list[BlockGates]:
    """Run a checkpoint on images and collect its gates, with a progress bar if that takes over two seconds.

    Args:
        checkpoint: See `load_model`.
        paths: See `find_images`; an image's class is the name of its folder.
        size: Height and width in pixels, by default the model's own.
        batch_size: Images a batch.

    Returns:
        The gates of each SE module.

    Raises:
        OSError, RuntimeError, ValueError: The checkpoint or an image cannot be read, or the model holds no SE.
    """
    images = find_images(paths)
    classes = sorted({name for _, name in images})
    model = load_model(checkpoint)
    with tqdm(total=len(images), delay=2, unit='image', disable=None) as bar:
        def batches():
            for batch, index in image_batches(images, classes, model, size, batch_size):
                yield batch, index
                bar.update(len(index))
        return collect_gates(model, batches(), classes)


def format_gates(blocks: Sequence[BlockGates]) -> str:
    """A table, one row a block."""
    counts = ', '.join(f'{c} {int(n)}' for c, n in zip(blocks[0].classes, blocks[0].count.tolist()))
    lines = [
        f'{int(blocks[0].count.sum())} images: {counts}',
        'Gate of each channel, averaged over images; spread within and between classes, averaged over channels',
        f'{"block":<22}{"channels":>9}{"mean":>9}{"min":>9}{"max":>9}{"within":>9}{"between":>9}']
    for block in blocks:
        name, channels, *numbers = block.summary().values()
        lines.append(f'{name:<22}{channels:>9}' + ''.join(f'{n:>9.4f}' for n in numbers))
    return '\n'.join(lines)


def gates_to_dict(blocks: Sequence[BlockGates]) -> dict[str, Any]:
    """All of it as plain JSON: by block, each class's mean gate and spread of each channel; and the warnings."""
    return {
        'classes': dict(zip(blocks[0].classes, map(int, blocks[0].count.tolist()))),
        'blocks': [
            b.summary() | {'scale': b.scale, 'class_mean': b.mean.tolist(), 'class_std': b.std.tolist()}
            for b in blocks],
        'warnings': gate_warnings(blocks),
    }
