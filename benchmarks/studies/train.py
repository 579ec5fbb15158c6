"""Training and testing, the same for every arm."""
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from tqdm import tqdm

from timm_se50 import param_groups, se_parameters
from timm_se50.gates import evaluating, recording_gates

from .data import Task

__all__ = ['OPTIMIZERS', 'Recipe', 'gate_spread', 'make_optimizer', 'scores', 'train']

# timm's names -> weight decay
OPTIMIZERS = {'sgd': 1e-4, 'adamw': 0.05}
CURVE_IMAGES = 1000  # of the test part, for the curve; the last figure is of all


@dataclass(frozen=True)
class Recipe:
    """An optimizer of timm's, a cosine to zero, no warm-up; no augmentation but the task's flips.

    Args:
        optimizer: 'sgd' (Nesterov momentum 0.9, as timm has it) or 'adamw'.
        lr: Learning rate at the first step.
        steps: Optimizer steps.
        batch_size: Images a step.
        amp: bfloat16 autocast, to train and to test.
        se_lr: Times the learning rate for SE's parameters.
    """
    optimizer: str
    lr: float
    steps: int
    batch_size: int = 32
    amp: bool = True
    se_lr: float = 1.0


def train(model: nn.Module, task: Task, recipe: Recipe, seed: int, device: torch.device, label: str) -> dict:
    """Train a model in place.

    Returns:
        'curve' (test accuracy by step, in percent, from before the first one), 'val' and 'test' (see `scores`),
        'spread' (see `gate_spread`), 'loss' (mean of the last tenth of the steps), 'seconds' (of training: CPU time, on
        a GPU wall time).
    """
    model.to(device)
    images, labels = task.train
    order = _order(len(labels), recipe.steps * recipe.batch_size, seed)
    flip = torch.rand(2, len(order), generator=torch.Generator().manual_seed(seed)) < 0.5
    optimizer = make_optimizer(model, recipe)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / recipe.steps)))
    frozen = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.requires_grad]
    curve_part = tuple(t[:CURVE_IMAGES] for t in task.test)
    curve_steps = {math.ceil(recipe.steps * share) for share in (0, 0.01, 0.03, 0.1, 0.3)}
    clock = time.process_time if device.type == 'cpu' else time.perf_counter
    curve, losses, seconds = {}, [], 0.0
    for step in tqdm(range(recipe.steps), desc=label, mininterval=30):
        if step in curve_steps:
            curve[str(step)] = scores(model, task, curve_part, recipe.amp, device)['accuracy']
        start = clock()
        model.train()
        for norm in frozen:
            norm.eval()
        chosen = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        index = order[chosen]
        x = images[index]
        if task.flips:
            for dim in (1, 2):
                x = torch.where(flip[dim - 1, chosen, None, None], x.flip(dim), x)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.amp):
            logits = model(task.batch(x, device))
        loss = F.cross_entropy(logits.float(), labels[index].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        seconds += clock() - start
    test = scores(model, task, task.test, recipe.amp, device)
    tail = losses[-max(recipe.steps // 10, 1):]
    return {
        'curve': curve | {str(recipe.steps): test['accuracy']},
        'val': scores(model, task, task.val, recipe.amp, device), 'test': test,
        'spread': gate_spread(model, task.batch(task.val[0][:256], device)),
        'loss': sum(tail) / len(tail), 'seconds': round(seconds, 1)}


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    decay = OPTIMIZERS[recipe.optimizer]
    if not se_parameters(model):
        return create_optimizer_v2(model, recipe.optimizer, recipe.lr, decay)
    groups = param_groups(model, recipe.lr, decay, recipe.lr * recipe.se_lr)
    return create_optimizer_v2(groups, recipe.optimizer, recipe.lr)  # type: ignore[arg-type]


@torch.inference_mode()
def scores(model: nn.Module, task: Task, part: tuple[Tensor, ...], amp: bool, device: torch.device) -> dict[str, float]:
    """Top-1 'accuracy' in percent; of two classes also 'auroc', in percent."""
    model.eval()
    images, labels = part
    logits = []
    for x in images.split(250):
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            logits.append(model(task.batch(x, device)).float().cpu())
    output = torch.cat(logits)
    result = {'accuracy': 100 * (output.argmax(1) == labels).float().mean().item()}
    if len(task.classes) == 2:
        from sklearn.metrics import roc_auc_score
        result['auroc'] = 100 * float(roc_auc_score(labels.numpy(), (output[:, 1] - output[:, 0]).numpy()))
    return result


def gate_spread(model: nn.Module, x: Tensor) -> float | None:
    """Standard deviation of each gate between images, as a share of the gate's range, averaged over all gates."""
    with torch.inference_mode(), evaluating(model), recording_gates(model) as gates:
        model(x)
    if not gates:
        return None
    return sum(
        (gate / getattr(model.get_submodule(name), 'gate_scale', 1.0)).float().std(0).mean().item()
        for name, gate in gates.items()) / len(gates)


def _order(images: int, count: int, seed: int) -> Tensor:
    """Indices of `count` images: epoch after epoch, each in an order of its own that depends on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(images, generator=generator) for _ in range(math.ceil(count / images))])[:count]
