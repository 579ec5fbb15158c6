"""`timm-se50 pull`."""
import click

from ..hub import download_checkpoint

__all__ = ['command']


@click.command('pull', epilog='Example: timm-se50 pull someone/their-se-resnet50 my-se-resnet50')
@click.argument('repo_id')
@click.argument('folder', type=click.Path(file_okay=False))
@click.option('--revision', help='Branch, tag or commit.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bars.')
def command(repo_id: str, folder: str, revision: str | None, quiet: bool):
    """Pull REPO_ID from the Hub into FOLDER, every file verified.

    Then: timm.create_model('local-dir:FOLDER', pretrained=True).
    """
    click.echo(download_checkpoint(repo_id, folder, revision=revision, quiet=quiet))
