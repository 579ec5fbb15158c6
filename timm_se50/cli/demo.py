"""The main job from end to end, on real images and with no network."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .checkpoint import save_checkpoint
from .convert import model_name, read_weights
from .squeeze_excite import SEConfig
from .weights_check import check_weights

__all__ = ['report', 'run_demo']

IMAGE_SIZE, BATCH_SIZE = 32, 64


def run_demo(
        folder: str | Path,
        route: str = 'replace',
        weights: str | None = None,
        config: SEConfig = SEConfig(),
        epochs: tuple[int, int] = (6, 3),
        seed: int = 0,
) -> dict[str, Any]:
    """Train a plain ResNet-50 on scikit-learn's digits, put SE in, compare at step 0, fine-tune, save, load.

    Args:
        folder: Where the checkpoint folder `model`, curves.png and results.json go.
        route: 'replace' or 'patch'.
        weights: What the plain ResNet-50 starts from: a file, or a pretrained tag of timm's resnet50 such as
            'a1_in1k', which is downloaded; by default random weights.
        config: Where SE goes and how wide.
        epochs: Epochs of the plain ResNet-50's training and of each fine-tuning.
        seed: Of the random init and of the data's order.

    Returns:
        What was measured: held-out accuracies as fractions, `equal` (logits at step 0 equal bit for bit), curves.

    Raises:
        ValueError: `route` or `weights` is none of the above.
        RuntimeError: The file holds other weights than a plain ResNet-50's.
    """
    name = model_name(route)
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

    logits = {key: predict(model, digits['x_test']) for key, model in
              {'plain': plain, 'ours': ours, 'usual': usual}.items()}
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
    check_weights(found, timm.create_model('resnet50', device='meta').state_dict(), adaptable=True)
    return dict(pretrained=True, pretrained_cfg_overlay=dict(state_dict=found))


def load_digits(seed: int) -> dict[str, Tensor]:
    """scikit-learn's digits, 8 x 8 scans made 32 x 32: `x_*` (N, 3, 32, 32), normalised, and `y_*` (N,).

    A quarter is held out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x = F.interpolate((x - x.mean()) / x.std(), size=IMAGE_SIZE, mode='bilinear').expand(-1, 3, -1, -1)
    y = torch.from_numpy(digits.target)
    train, test = train_test_split(range(len(y)), test_size=0.25, random_state=seed, stratify=digits.target)
    return dict(x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])


def train(
        model: nn.Module,
        digits: Mapping[str, Tensor],
        epochs: int,
        lr: float,
        seed: int,
        label: str,
) -> list[tuple[int, float]]:
    """Train with SGD and a cosine schedule; returns (step, held-out accuracy), from step 0 on, thrice an epoch."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    batches = [batch for _ in range(epochs)
               for batch in torch.randperm(len(digits['y_train']), generator=order).split(BATCH_SIZE)
               if len(batch) == BATCH_SIZE]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=len(batches), pct_start=0.2)
    curve = [(0, accuracy(predict(model, digits['x_test']), digits['y_test']))]
    every = max(1, len(batches) // (3 * epochs))
    with tqdm(batches, desc=label, unit='step', ncols=100) as bar:
        for step, batch in enumerate(bar, 1):
            model.train()
            loss = F.cross_entropy(model(digits['x_train'][batch]), digits['y_train'][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == len(batches):
                curve.append((step, accuracy(predict(model, digits['x_test']), digits['y_test'])))
                bar.set_postfix_str(f'held-out accuracy {curve[-1][1]:.1%}')
    return curve


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Logits, (N, 10), in eval mode."""
    model.eval()
    return torch.cat([model(batch) for batch in x.split(225)])


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of right predictions."""
    return (logits.argmax(1) == y).float().mean().item()


def plot_curves(curves: Mapping[str, list[tuple[int, float]]], path: Path) -> None:
    """Draw held-out accuracy by step: the source's training, then each fine-tuning, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    begin = curves['ResNet-50'][-1][0]
    for label, curve in curves.items():
        offset = 0 if label == 'ResNet-50' else begin
        axes.plot([offset + step for step, _ in curve], [share for _, share in curve], label=label, marker='.')
    axes.axvline(begin, color='grey', linestyle=':')
    axes.set(xlabel='training step (dotted: SE put in)', ylabel='held-out accuracy', ylim=(0, 1.02),
             title="scikit-learn's digits, 32 px")
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=150)
