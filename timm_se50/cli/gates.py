"""`timm-se50 gates`."""
import json
import os
from collections.abc import Sequence

import click
from tqdm import tqdm

from ..checkpoint import load_model
from ..gates import (
    BlockGates,
    check_plot,
    collect_gates,
    find_images,
    format_gates,
    gate_warnings,
    gates_to_dict,
    image_batches,
    plot_gates,
)
from .names import check_name

__all__ = ['command', 'examine_gates']


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
    batches = image_batches(images, classes, model, size, batch_size)
    return collect_gates(model, tqdm(batches, delay=2, unit='batch', disable=None), classes)


@click.command('gates', epilog='Example: timm-se50 gates my-se-resnet50 photos/ -o gates.png')
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True, type=click.Path())
@click.option('-o', '--output', type=click.Path(dir_okay=False), help='Picture to write; needs matplotlib.')
@click.option('--size', type=click.IntRange(1), help="Pixels; by default the model's own.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: mean and spread of each channel by class.')
def command(checkpoint: str, images: tuple[str, ...], output: str | None, size: int | None, as_json: bool):
    """Show what the gates of CHECKPOINT do with IMAGES.

    CHECKPOINT is a folder, or a name that timm knows (hf-hub:..., local-dir:...). IMAGES are files and folders; the
    class of an image is the name of the folder that it lies in.
    """
    if output:
        check_plot(output)
    check_name(checkpoint)
    blocks = examine_gates(checkpoint, images, size)
    click.echo(json.dumps(gates_to_dict(blocks)) if as_json else format_gates(blocks))
    for line in gate_warnings(blocks):
        click.echo(f'warning: {line}', err=True)
    if output:
        plot_gates(blocks, output, f'Gates of {checkpoint}')
