"""The demo's training: scikit-learn's digits, SGD and curves."""
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

__all__ = ['IMAGE_SIZE', 'accuracy', 'load_digits', 'plot_curves', 'predict', 'train']

IMAGE_SIZE, BATCH_SIZE = 32, 64


def load_digits(seed: int) -> dict[str, Tensor]:
    """scikit-learn's digits, 8 x 8 scans made 32 x 32: `x_*` (N, 3, 32, 32), normalised, channels_last, and `y_*` (N,).

    A quarter is held out.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x = F.interpolate((x - x.mean()) / x.std(), size=IMAGE_SIZE, mode='bilinear').expand(-1, 3, -1, -1)
    x = x.contiguous(memory_format=torch.channels_last)
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
    """Train with SGD and a cosine schedule; returns (step, held-out accuracy), at step 0 and up to 4 times more."""
    order = torch.Generator().manual_seed(seed)
    batches = [batch for _ in range(epochs)
               for batch in torch.randperm(len(digits['y_train']), generator=order).split(BATCH_SIZE)
               if len(batch) == BATCH_SIZE]
    curve = [(0, accuracy(predict(model, digits['x_test']), digits['y_test']))]
    if not batches:
        return curve
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=len(batches), pct_start=0.2)
    parts = min(4, 2 * epochs)
    with tqdm(batches, desc=label, unit='step', ncols=100) as bar:
        for step, batch in enumerate(bar, 1):
            model.train()
            loss = F.cross_entropy(model(digits['x_train'][batch]), digits['y_train'][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step * parts // len(batches) > (step - 1) * parts // len(batches):
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

    figure = Figure(figsize=(8, 4.5), layout='constrained')
    axes = figure.subplots()
    begin = curves['ResNet-50'][-1][0]
    for (label, curve), color in zip(curves.items(), ('#777777', '#d55e00', '#0072b2', '#222222')):
        offset = 0 if label == 'ResNet-50' else begin
        # ours is wide and pale, to be seen where the plain network's line lies on it
        how = dict(linewidth=9, alpha=0.4) if label.startswith('se_') else dict(linewidth=1.5, marker='.')
        axes.plot([offset + step for step, _ in curve], [share for _, share in curve], color=color, label=label,
                  solid_capstyle='round', **how)
    axes.axvline(begin, color='grey', linestyle=':')
    axes.set(xlabel='training step (dotted: SE put in)', ylabel='held-out accuracy', ylim=(0, 1.05))
    axes.set_title("scikit-learn's digits, 32 px", loc='left')
    figure.legend(loc='outside lower center', ncols=4, fontsize='small')
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
