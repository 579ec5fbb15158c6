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
    if not (results['equal'] and results['loaded_equal']):
        raise click.ClickException('Logits that should be equal are not.')


@main.command()
@click.argument('model')
@click.argument('repo_id')
@click.option('--checkpoint', type=click.Path(exists=True, dir_okay=False), help='Weights for a MODEL that is a name.')
@click.option('--model-kwargs', multiple=True, metavar='KEY=VALUE',
              help='Argument of timm.create_model(); may be repeated.')
@click.option('--portable', is_flag=True, help="Push as timm's own seresnet50 (default SE settings only).")
@click.option('--card', 'card_file', type=click.Path(exists=True, dir_okay=False), help='JSON: recipe, results, ...')
@click.option('--overwrite-card', is_flag=True, help='Replace a README.md that is there.')
@click.option('--revision', help='Branch to commit to.')
@click.option('--private', is_flag=True, default=None, help='Make a private repo.')
@click.option('--create-pr', is_flag=True, help='Open a pull request.')
@click.option('--message', 'commit_message', default='Add model', show_default=True, help='Title of the commit.')
@click.option('--dry-run', is_flag=True, help='Show files, sizes and card, and send nothing.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bars.')
def push(model: str, repo_id: str, checkpoint: str | None, model_kwargs: tuple[str, ...], card_file, **options):
    """Push MODEL to the Hub as REPO_ID.

    MODEL is a folder that save_checkpoint() made or a name in timm's registry, with its pretrained weights or those of
    --checkpoint. The token is the one of `hf auth login` or HF_TOKEN.
    """
    from .hub_cli import describe_push, load_card, model_of, parse_kwargs
    from .hub_push import push_to_hub
    card = load_card(card_file)
    click.echo(describe_push(push_to_hub(
        model_of(model, checkpoint, parse_kwargs(model_kwargs)), repo_id, card=card, **options)))


@main.command()
@click.argument('repo_id')
@click.argument('folder', type=click.Path(file_okay=False))
@click.option('--revision', help='Branch, tag or commit.')
@click.option('-q', '--quiet', is_flag=True, help='No progress bars.')
def pull(repo_id: str, folder: str, revision: str | None, quiet: bool):
    """Pull REPO_ID from the Hub into FOLDER, every file verified.

    Then: timm.create_model('local-dir:FOLDER', pretrained=True).
    """
    from .hub import download_checkpoint
    click.echo(download_checkpoint(repo_id, folder, revision=revision, quiet=quiet))


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


@main.command()
def doctor():
    """Show what timm knows of this plugin, and how; fails where timm does not know its models without an import."""
    from .doctor import diagnose
    well, findings = diagnose()
    for title, finding in findings.items():
        click.echo(f'{title:18} {finding}')
    raise SystemExit(not well)


@main.command()
@click.option('--batch-size', type=click.IntRange(1), default=8, show_default=True)
@click.option('--size', 'image_size', type=click.IntRange(32), default=224, show_default=True, help='Pixels.')
@click.option('--rounds', type=click.IntRange(1), default=7, show_default=True)
@click.option('--train', is_flag=True, help='Time training steps in place of forward passes.')
@click.option('--device', default='cpu', show_default=True)
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def bench(as_json, **options):
    """Time our model and timm's on this machine, in turn."""
    from .bench import bench, format_bench
    results = bench(**options)
    click.echo(json.dumps(results) if as_json else format_bench(results))


if __name__ == '__main__':
    main()
