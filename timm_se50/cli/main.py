"""The command line: a thin layer over public functions, one file a command."""
import click

from .. import __version__
from . import convert, demo, doctor, gates, info, pull, push

__all__ = ['main']


class _Group(click.Group):
    """Shows an error as one line, and its traceback with --debug only."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except (OSError, RuntimeError, ValueError) as e:
            # a broken pipe: who reads the output has seen enough (`| head`), and click then ends without a word
            if ctx.params['debug'] or isinstance(e, (click.exceptions.Exit, BrokenPipeError)):
                raise
            raise click.ClickException(' '.join(str(e).split())) from e


@click.group(cls=_Group, context_settings={'help_option_names': ['-h', '--help']})
@click.option('--debug', is_flag=True, help='Show the traceback of an error.')
@click.version_option(__version__, prog_name='timm-se50')
def main(debug: bool):
    """Squeeze-and-Excitation for pretrained ResNet-50s."""


for module in (demo, push, pull, gates, convert, info, doctor):
    main.add_command(module.command)
