"""Training and testing, the same for every arm."""
import hashlib
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from timm_se50 import se_parameters

from .data import Task

__all__ = ['Recipe', 'accuracy', 'train']


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum 0.9, weight decay and a cosine to zero; no augmentation.

    Args:
        steps: Optimizer steps.
        lr: Learning rate at the first step.
        batch_size: Images a step.
        weight_decay: Of all parameters.
        amp: bfloat16 autocast, to train and to test.
    """
    steps: int
    lr: float
    batch_size: int = 64
    weight_decay: float = 1e-4
    amp: bool = True



def train(
        model: nn.Module,
        task: Task,
        recipe: Recipe,
        seed: int,
        eval_steps: tuple[int, ...],
        label: str,
        se_lr_scale: float = 1.0,
) -> dict:
    """Train a model in place, and test it at `eval_steps` (0 is before the first step).

    The learning rate of SE modules, if any, is `se_lr_scale` times that of the rest.

    Returns:
        'accuracy' by step (in percent), 'loss' (of each step's batch), 'state_sha256' of the final state dict,
        'cpu_seconds'.
    """
    images, labels = task.train
    order = _order(len(labels), recipe.steps * recipe.batch_size, seed)
    se = set(se_parameters(model)) if se_lr_scale != 1 else set()
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict] = [{'params': [p for p in parameters if p not in se]}]
    if se:
        groups.append({'params': [p for p in parameters if p in se], 'lr': recipe.lr * se_lr_scale})
    optimizer = torch.optim.SGD(groups, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / recipe.steps)))
    frozen = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and not m.weight.requires_grad]
    result: dict = {'accuracy': {}, 'loss': []}
    start = time.process_time()
    if 0 in eval_steps:
        result['accuracy']['0'] = accuracy(model, task, recipe.amp)
    for step in tqdm(range(recipe.steps), desc=label, mininterval=5):
        model.train()
        for norm in frozen:
            norm.eval()
        index = order[step * recipe.batch_size:(step + 1) * recipe.batch_size]
        with torch.autocast('cpu', torch.bfloat16, enabled=recipe.amp):
            logits = model(task.batch(images[index]))
        loss = F.cross_entropy(logits.float(), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        result['loss'].append(round(loss.item(), 4))
        if step + 1 in eval_steps:
            result['accuracy'][str(step + 1)] = accuracy(model, task, recipe.amp)
    result['state_sha256'] = _digest(model)
    result['cpu_seconds'] = round(time.process_time() - start, 1)
    return result


@torch.inference_mode()
def accuracy(model: nn.Module, task: Task, amp: bool) -> float:
    """Top-1 accuracy on the test images, in percent."""
    model.eval()
    images, labels = task.test
    correct = 0
    for x, y in zip(images.split(250), labels.split(250), strict=True):
        with torch.autocast('cpu', torch.bfloat16, enabled=amp):
            correct += (model(task.batch(x)).argmax(1) == y).sum().item()
    return 100 * correct / len(labels)


def _order(images: int, count: int, seed: int) -> torch.Tensor:
    """Indices of `count` images: epoch after epoch, each in an order of its own that depends on the seed only."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(images, generator=generator) for _ in range(math.ceil(count / images))])[:count]


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()
