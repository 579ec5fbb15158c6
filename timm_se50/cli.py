"""The command line: a thin layer over public functions."""
import json
from dataclasses import asdict

import click

from . import __version__

__all__ = ['main']


class _Group(click.Group):
    """Shows an error as one line, and its traceback with --debug only."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except (OSError, RuntimeError, ValueError) as e:
            if ctx.params['debug'] or isinstance(e, click.exceptions.Exit):
                raise
            raise click.ClickException(' '.join(str(e).split())) from e


def _ints(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, value.split(',')))
    except ValueError:
        raise click.BadParameter(f'{value!r}: expected whole numbers with commas between, for example 3,4.') from None


@click.group(cls=_Group, context_settings={'help_option_names': ['-h', '--help']})
@click.option('--debug', is_flag=True, help='Show the traceback of an error.')
@click.version_option(__version__, prog_name='timm-se50')
def main(debug: bool):
    """Squeeze-and-Excitation for pretrained ResNet-50s."""


@main.command()
@click.argument('checkpoint')
@click.argument('images', nargs=-1, required=True, type=click.Path())
@click.option('-o', '--output', type=click.Path(dir_okay=False), help='Picture to write; needs matplotlib.')
@click.option('--size', type=click.IntRange(1), help="Pixels; by default the model's own.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: mean and spread of each channel by class.')
def gates(checkpoint: str, images: tuple[str, ...], output: str | None, size: int | None, as_json: bool):
    """Show what the gates of CHECKPOINT do with IMAGES.

    CHECKPOINT is a folder, or a name that timm knows (hf-hub:..., local-dir:...). IMAGES are files and folders; the
    class of an image is the name of the folder that it lies in.
    """
    from .gates import gate_warnings
    from .gates_plot import check_plot, plot_gates
    from .gates_report import examine_gates, format_gates, gates_to_dict
    if output:
        check_plot(output)
    blocks = examine_gates(checkpoint, images, size)
    if output:
        plot_gates(blocks, output, f'Gates of {checkpoint}')
    click.echo(json.dumps(gates_to_dict(blocks)) if as_json else format_gates(blocks))
    for line in gate_warnings(blocks):
        click.echo(f'warning: {line}', err=True)


@main.command()
@click.argument('file', type=click.Path())
@click.argument('folder', type=click.Path())
@click.option('--route', type=click.Choice(['replace', 'patch']), default='replace', show_default=True)
@click.option('--reduction', default='16', callback=_ints, help='Ratio r, or one for each stage.  [default: 16]')
@click.option('--stages', default='1,2,3,4', callback=_ints, help='Stages with SE.  [default: 1,2,3,4]')
@click.option('--position', default='standard', show_default=True, help='standard, pre, post or identity.')
@click.option('--num-classes', type=int, help='Another number than the file has: the head is then new.')
@click.option('--tag', help="timm's tag of the weights, as in resnet50.TAG: its preprocessing and license go along.")
@click.option('--json', 'as_json', is_flag=True, help='Print what was done as JSON.')
def convert(file, folder, route, reduction, stages, position, num_classes, tag, as_json):
    """Make a checkpoint FOLDER with SE of FILE, the weights of a ResNet-50. It computes what that one computed."""
    from .convert import convert_checkpoint
    from .squeeze_excite import SEConfig
    config = SEConfig(reduction if len(reduction) > 1 else reduction[0], stages, position)
    done = convert_checkpoint(file, folder, route=route, config=config, num_classes=num_classes, tag=tag)
    click.echo(json.dumps(asdict(done)) if as_json else done)


@main.command()
@click.argument('checkpoint')
@click.option('--size', type=click.IntRange(1), help="Pixels to count FLOPs for; by default the model's own.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def info(checkpoint: str, size: int | None, as_json: bool):
    """Show parameters, FLOPs, SE settings and blocks of CHECKPOINT.

    CHECKPOINT is a folder, a name that timm knows (hf-hub:..., local-dir:...), or a model's name alone, which loads no
    weights (se_resnet50_patch).
    """
    from .info import describe, format_description
    from .inputs import load_model
    description = describe(load_model(checkpoint, weights=False), size)
    click.echo(json.dumps(description, indent=2) if as_json else format_description(description))


if __name__ == '__main__':
    main()
