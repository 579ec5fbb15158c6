"""`timm-se50 demo`: the main job from end to end, on real images and with no network."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import timm
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from ..checkpoint import read_weights, save_checkpoint
from ..squeeze_excite import SEConfig
from ..weights import check_weights
from .digits import IMAGE_SIZE, accuracy, load_digits, plot_curves, predict, train

__all__ = ['command', 'report', 'run_demo']


def run_demo(
        folder: str | Path,
        route: str = 'replace',
        weights: str | None = None,
        config: SEConfig = SEConfig(),
        epochs: tuple[int, int] = (3, 1),
        seed: int = 0,
) -> dict[str, Any]:
    """Train a plain ResNet-50 on scikit-learn's digits, put SE in, compare at step 0, fine-tune, save, load.

    Args:
        folder: Where the checkpoint folder `model`, curves.png and results.json go.
        route: 'replace' or 'patch'.
        weights: What the plain ResNet-50 starts from: a file, or a pretrained tag of timm's resnet50 such as
            'a1_in1k', which is downloaded; by default random weights.
        config: Where SE goes and how wide.
        epochs: Epochs of the plain ResNet-50's training and of each fine-tuning; the latter may be 0.
        seed: Of the random init and of the data's order.

    Returns:
        What was measured: held-out accuracies as fractions, `equal` (logits at step 0 equal bit for bit), curves.

    Raises:
        ValueError: `weights` is none of the above.
        RuntimeError: The file holds other weights than a plain ResNet-50's, or the extra 'demo' is not installed.
    """
    name = f'se_resnet50_{route}'
    try:
        import matplotlib.figure  # noqa: F401
        import sklearn.datasets  # noqa: F401
    except ImportError as e:  # said before the work, not after it
        raise RuntimeError(f"The demo needs scikit-learn and matplotlib ({e}): pip install 'timm-se50[demo]'.") from e
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    digits = load_digits(seed)
    plain = timm.create_model('resnet50', num_classes=10, **_source(weights))
    curves = {'ResNet-50': train(plain, digits, epochs[0], 0.05, seed, 'ResNet-50, the source')}
    file = folder / 'resnet50.safetensors'
    save_file(plain.state_dict(), file)

    # the plugin's model, from the file: what a user does with weights of their own
    cfg = dict(file=str(file), num_classes=10, input_size=(3, IMAGE_SIZE, IMAGE_SIZE), tag=None)
    ours = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=cfg, **config.model_args())
    # the usual way: the same weights, BatchNorm statistics too, into timm's seresnet50, whose gates are random
    usual = timm.create_model('seresnet50', num_classes=10)
    usual.load_state_dict(plain.state_dict(), strict=False)

    models = {'plain': plain, 'ours': ours, 'usual': usual}
    logits = {key: predict(model, digits['x_test'])
              for key, model in tqdm(models.items(), 'step 0, compared', unit='model', ncols=100)}
    results: dict[str, Any] = {
        f'step0_{key}': accuracy(value, digits['y_test']) for key, value in logits.items()}
    results['source'] = weights or 'random weights'
    results['equal'] = torch.equal(logits['ours'], logits['plain'])

    for label, model in {name: ours, 'random gates': usual, 'ResNet-50, no SE': plain}.items():
        curves[label] = train(model, digits, epochs[1], 0.02, seed + 1, f'{label}, fine-tuning')
        results[f'tuned {label}'] = curves[label][-1][1]

    save_checkpoint(ours, folder / 'model', data_config=dict(input_size=(3, IMAGE_SIZE, IMAGE_SIZE)))
    loaded = timm.create_model(f'local-dir:{folder / "model"}', pretrained=True)
    results['loaded_equal'] = torch.equal(predict(loaded, digits['x_test']), predict(ours, digits['x_test']))
    results['curves'] = curves
    (folder / 'results.json').write_text(json.dumps(results, indent=2) + '\n')
    plot_curves(curves, folder / 'curves.png')
    return results


def report(results: Mapping[str, Any], folder: str | Path) -> str:
    """The results as a user reads them."""
    source, equal = results['source'], 'equal bit for bit' if results['equal'] else 'NOT EQUAL'
    lines = [f'Source: a plain ResNet-50 from {source}, trained a little on the spot on 1,347 digits.',
             'Held-out accuracy, on 450 digits:', '',
             f'  {"":34}{"at step 0":>10}{"fine-tuned":>12}']
    lines += [f'  {label:34}{curve[0][1]:>10.1%}{curve[-1][1]:>12.1%}'
              for label, curve in results['curves'].items() if label != 'ResNet-50']
    lines += ['', f"At step 0 the logits with SE and the plain ResNet-50's are {equal}.",
              f'{folder}/model loads by timm.create_model("local-dir:{folder}/model", pretrained=True)',
              f'to {"identical" if results["loaded_equal"] else "DIFFERENT"} logits. Curves: {folder}/curves.png']
    return '\n'.join(lines)


def _source(weights: str | None) -> dict[str, Any]:
    """Arguments for `timm.create_model('resnet50')`."""
    if weights is None:
        return {}
    tags = [name.partition('.')[2] for name in timm.list_pretrained('resnet50')]
    if weights in tags:
        return dict(pretrained=True, pretrained_cfg=weights)
    if not Path(weights).is_file():
        raise ValueError(f'weights={weights!r}: expected a file, or a tag of timm\'s resnet50: {", ".join(tags)}.')
    # timm itself loads of any file what fits, since the number of classes differs
    found = read_weights(weights)
    check_weights(found, timm.create_model('resnet50', device='meta').state_dict())
    return dict(pretrained=True, pretrained_cfg_overlay=dict(state_dict=found))


@click.command('demo', epilog='Example: timm-se50 demo --weights resnet50.pth -o my-demo')
@click.option('-o', '--output', default='timm-se50-demo', show_default=True, help='Folder for what it writes.')
@click.option('--route', type=click.Choice(['replace', 'patch']), default='replace', show_default=True)
@click.option('--weights', metavar='FILE|TAG', help="Start from a file, or a tag of timm's resnet50.")
@click.option('--epochs', type=(click.IntRange(1), click.IntRange(0)), default=(3, 1), show_default=True,
              help='Of the training of the plain ResNet-50 and of each fine-tuning.')
@click.option('--seed', default=0, show_default=True)
@click.option('--json', 'as_json', is_flag=True, help='Print the figures as JSON.')
def command(output, as_json, **options):
    """Run the whole job on scikit-learn's digits: train, put SE in, compare, fine-tune, save, load."""
    results = run_demo(output, **options)
    click.echo(json.dumps(results) if as_json else report(results, output))
    if not (results['equal'] and results['loaded_equal']):
        raise click.ClickException('Logits that should be equal are not.')
