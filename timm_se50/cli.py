"""The command line: a thin layer over public functions."""
import json

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


@click.group(cls=_Group, context_settings={'help_option_names': ['-h', '--help']})
@click.option('--debug', is_flag=True, help='Show the traceback of an error.')
@click.version_option(__version__, prog_name='timm-se50')
def main(debug: bool):
    """Squeeze-and-Excitation for pretrained ResNet-50s."""


@main.command()
@click.option('-o', '--output', default='timm-se50-demo', show_default=True, help='Folder for what it writes.')
@click.option('--route', type=click.Choice(['replace', 'patch']), default='replace', show_default=True)
@click.option('--weights', metavar='FILE|TAG', help="Start from a file, or a tag of timm's resnet50.")
@click.option('--epochs', nargs=2, type=click.IntRange(1), default=(6, 3), show_default=True,
              help='Of the training of the plain ResNet-50 and of each fine-tuning.')
@click.option('--seed', default=0, show_default=True)
@click.option('--json', 'as_json', is_flag=True, help='Print the figures as JSON.')
def demo(output, as_json, **options):
    """Run the whole job on scikit-learn's digits: train, put SE in, compare, fine-tune, save, load."""
    from .demo import report, run_demo

    results = run_demo(output, **options)
    click.echo(json.dumps(results) if as_json else report(results, output))


if __name__ == '__main__':
    main()
