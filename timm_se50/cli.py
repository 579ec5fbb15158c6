"""The command line: a thin layer over public functions."""
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
def doctor():
    """Show what timm knows of this plugin, and how; fails where timm does not know its models without an import."""
    from .doctor import diagnose
    well, findings = diagnose()
    for title, finding in findings.items():
        click.echo(f'{title:18} {finding}')
    raise SystemExit(not well)


if __name__ == '__main__':
    main()
