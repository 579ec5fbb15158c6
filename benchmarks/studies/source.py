"""What the study goes on from: a plain ResNet, trained on Fashion-MNIST."""
from pathlib import Path

import safetensors.torch
import timm
import torch

from .arms import Source
from .data import Task
from .train import Recipe, scores, train

__all__ = ['NARROW', 'load_source']

# A ResNet-26 a quarter as wide: arguments of timm.create_model('resnet50', ...)
NARROW = {'layers': (2, 2, 2, 2), 'channels': (16, 32, 64, 128)}


def load_source(folder: Path, network: dict, task: Task, steps: int, amp: bool, device: torch.device) -> Source:
    """The trained ResNet, trained here unless it was before.

    Args:
        folder: For its weights.
        network: Arguments of `timm.create_model('resnet50', ...)`.
        task: Fashion-MNIST.
        steps: Optimizer steps of 64 images.
        amp: bfloat16 autocast.
        device: To train on.
    """
    network = {**network, 'num_classes': len(task.classes)}
    numbers = (steps, task.train[0].shape[-1], *network['layers'], *network['channels'])
    path = folder / f'source-{"-".join(map(str, numbers))}.safetensors'
    if not path.exists():
        torch.manual_seed(0)
        model = timm.create_model('resnet50', **network).to(memory_format=torch.channels_last)
        train(model, task, Recipe('sgd', 0.1, steps, 64, amp), 1000, device, 'source')
        print('source:', scores(model, task, task.test, amp, device))
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, path)
    return Source(safetensors.torch.load_file(path), network)
