"""`timm-se50 push`."""
import ast
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import click
import timm
import torch
from safetensors import safe_open
from torch import nn

from ..checkpoint import CardConfig, load_model, read_weights
from ..hub import Pushed, push_to_hub
from ..weights import map_resnet_weights
from .names import check_name

__all__ = ['command', 'describe_push', 'load_card', 'model_of', 'parse_kwargs']


def parse_kwargs(pairs: Iterable[str]) -> dict[str, Any]:
    """('num_classes=10', 'act_layer=silu') -> keyword arguments, as timm's scripts parse --model-kwargs.

    Raises:
        ValueError: One has no `=`.
    """
    kwargs = {}
    for pair in pairs:
        key, equals, value = pair.partition('=')
        if not equals:
            raise ValueError(f'--model-kwargs {pair!r}: expected KEY=VALUE, for example num_classes=10.')
        try:
            kwargs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            kwargs[key] = value  # a name
    return kwargs


def model_of(source: str, checkpoint: str | None, kwargs: dict[str, Any]) -> nn.Module:
    """The model in a folder that `save_checkpoint()` made, or of a name in timm's registry.

    Args:
        source: The folder or name.
        checkpoint: File with weights for a name, for example of timm's train.py; None for the pretrained weights.
        kwargs: Arguments of `timm.create_model()`.
    """
    folder = source.removeprefix('local-dir:')
    if Path(folder).is_dir():
        if checkpoint:
            raise ValueError(f'--checkpoint {checkpoint}: {folder} is a folder, which holds weights of its own; give '
                             '--checkpoint with a name of a model.')
        return load_model(folder, **kwargs).train().to(_dtype(Path(folder, 'model.safetensors')))
    check_name(source)
    try:
        model = timm.create_model(source, pretrained=checkpoint is None, **kwargs)
    except (OSError, RuntimeError, ValueError):
        raise
    except Exception as e:  # what wrong arguments make of timm has no bound
        raise ValueError(f'--model-kwargs: {type(e).__name__}: {e}') from e
    if checkpoint:
        model.load_state_dict(map_resnet_weights(read_weights(checkpoint), model))
    if checkpoint and '.' not in source:
        cast(dict[str, Any], model.pretrained_cfg)['file'] = checkpoint  # no tag is named that it might come from
    return model


def _dtype(weights: Path) -> torch.dtype:
    """Of the weights in a file, of which timm makes a float32 model whatever it is."""
    if not weights.is_file():
        return torch.float32
    with safe_open(weights, 'pt') as file:
        conv = next((key for key in file.keys() if key.endswith('conv1.weight')), None)  # noqa: SIM118
        return file.get_tensor(conv).dtype if conv else torch.float32


def load_card(path: str | None) -> CardConfig:
    """The card's settings from a JSON file.

    Raises:
        ValueError: It is not JSON, or has a key that CardConfig has not.
    """
    if path is None:
        return CardConfig()
    try:
        return CardConfig(**json.loads(Path(path).read_text(encoding='utf-8')))
    except (json.JSONDecodeError, TypeError) as e:
        raise ValueError(f'--card {path}: {e}. Expected a JSON object with keys of '
                         f'{sorted(CardConfig.__dataclass_fields__)}.') from e


def describe_push(pushed: Pushed) -> str:
    """What a push did, or would do, in a few lines."""
    if pushed.commit is None:
        files = '\n'.join(f'{size:>12,} bytes  {name}' for name, size in pushed.files.items())
        return f'Would push to {pushed.repo_id}:\n{files}\n\n{pushed.card}'
    return f'{pushed.url}' if pushed.changed else f'{pushed.url} holds the same already; no commit was made.'


@click.command('push', epilog='Example: timm-se50 push my-se-resnet50 your-name/your-model --dry-run')
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
def command(model: str, repo_id: str, checkpoint: str | None, model_kwargs: tuple[str, ...], card_file, **options):
    """Push MODEL to the Hub as REPO_ID.

    MODEL is a folder that save_checkpoint() made or a name in timm's registry, with its pretrained weights or those of
    --checkpoint. The card is made anew, of the model and --card. The token is the one of `hf auth login` or HF_TOKEN.
    """
    card = load_card(card_file)
    click.echo(describe_push(push_to_hub(
        model_of(model, checkpoint, parse_kwargs(model_kwargs)), repo_id, card=card, **options)))
    if not card_file and Path(model.removeprefix('local-dir:'), 'README.md').is_file():
        click.echo(f'warning: the card was made anew, and {model}/README.md was not sent. What it says of training and '
                   'results goes into the new one by --card.', err=True)
