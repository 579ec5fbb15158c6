"""`timm-se50 convert`."""
import json

import click

from ..checkpoint import convert_checkpoint
from ..squeeze_excite import SEConfig
from .names import check_name

__all__ = ['command']


def _ints(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, value.split(',')))
    except ValueError:
        raise click.BadParameter(f'{value!r}: expected whole numbers with commas between, for example 3,4.') from None


@click.command('convert', epilog='Example: timm-se50 convert resnet50.pth my-se-resnet50')
@click.argument('file', type=click.Path())
@click.argument('folder', type=click.Path())
@click.option('--route', type=click.Choice(['replace', 'patch']), default='replace', show_default=True)
@click.option('--reduction', default='16', callback=_ints, help='Ratio r, or one for each stage.  [default: 16]')
@click.option('--stages', default='1,2,3,4', callback=_ints, help='Stages with SE.  [default: 1,2,3,4]')
@click.option('--position', default='standard', show_default=True, help='standard, pre, post or identity.')
@click.option('--num-classes', type=click.IntRange(0), help='Another number than the file has: the head is then new.')
@click.option('--model', default='resnet50', show_default=True,
              help="timm's name of the plain ResNet. With a tag, as in resnet50.TAG, its license goes along.")
@click.option('--portable', is_flag=True, help="Write timm's own seresnet50 (default SE settings only).")
@click.option('--json', 'as_json', is_flag=True, help='Print what was done as JSON.')
def command(file, folder, route, reduction, stages, position, num_classes, model, portable, as_json):
    """Make a checkpoint FOLDER with SE of FILE, the weights of a ResNet. It computes what that one computed."""
    check_name(model)
    config = SEConfig(reduction if len(reduction) > 1 else reduction[0], stages, position)
    done = convert_checkpoint(
        file, folder, model=model, route=route, config=config, num_classes=num_classes, portable=portable)
    head = f'{"a new head of " * done["new_head"]}{done["num_classes"]} classes'
    click.echo(json.dumps(done) if as_json else (
        f'Recognised {done["recognised"]}.\nWrote {done["model"]} with {head} to {done["folder"]}.\n'
        f"Load it: timm.create_model('local-dir:{done['folder']}', pretrained=True)"))
