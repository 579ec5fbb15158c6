"""`timm-se50 info`: what a model is made of: parameters, FLOPs, SE settings, a table of its blocks."""
import json
from typing import Any

import click
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..bottleneck import SEBlock
from ..checkpoint import load_model
from ..gates.collect import SE_MODULES, evaluating
from ..resnets import find_resnets, is_block
from ..squeeze_excite import POSITIONS
from ..weights.recognise import recognise
from .names import check_name

__all__ = ['command', 'describe', 'format_description']


def describe(model: nn.Module, size: int | None = None) -> dict[str, Any]:
    """Describe a model, in plain JSON. The model is left as it was.

    Args:
        model: A ResNet with SE, ours or timm's, or what holds one and takes a batch of images, as detectors do.
        size: Height and width of the image that FLOPs are counted for, by default that of its pretrained_cfg.

    Returns:
        'architecture', 'recognised' (settings as one line), 'parameters', 'se_parameters', 'input_size' (C, H, W),
        'flops' and 'se_flops' (torch's FlopCounterMode, for one image: convolutions and matrix products, a
        multiplication and its addition as two), 'blocks' (the same by block).

    Raises:
        ValueError: The model holds no ResNet.
    """
    cfg: dict[str, Any] = getattr(model, 'pretrained_cfg', {})
    resnets = find_resnets(model)
    conv = next(m for m in model.modules() if isinstance(m, nn.Conv2d))  # the first, in timm's order
    input_size = cfg.get('input_size', (3, 224, 224))
    side = (size, size) if size is not None else input_size[1:]
    in_chans, weight = conv.in_channels, conv.weight
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter:
        model(torch.zeros(1, in_chans, *side, device=weight.device, dtype=weight.dtype))
    counts = {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}
    flops: dict[nn.Module, int] = {}  # FlopCounterMode names a module that has several names by one of them
    for name, module in model.named_modules(remove_duplicate=False):
        flops[module] = max(flops.get(module, 0), counts.get(f'{type(model).__name__}.{name}', 0))
    se_modules = [m for m in model.modules() if isinstance(m, SE_MODULES)]
    return {
        'architecture': cfg.get('architecture', type(model).__name__),
        'recognised': ' and '.join(dict.fromkeys(recognise(m.state_dict()) for m in resnets.values())),
        'num_classes': getattr(model, 'num_classes', None),
        'parameters': _count(model.parameters()),
        'se_parameters': sum(_count(m.parameters()) for m in se_modules),
        'input_size': [in_chans, *side],
        'flops': counter.get_total_flops(),
        'se_flops': sum(flops[m] for m in se_modules),
        'blocks': [
            _block(n, m, flops[m])
            for n, m in model.named_modules() if is_block(m)],
    }


def _block(name: str, block: nn.Module, flops: int) -> dict[str, Any]:
    row: dict[str, Any] = {'block': name, 'class': type(block).__name__}
    row |= {'parameters': _count(block.parameters()), 'flops': flops}
    position = block.se_position if isinstance(block, SEBlock) else 'standard'
    se: Any = getattr(block, POSITIONS[position] if isinstance(block, SEBlock) else 'se', None)
    if isinstance(se, SE_MODULES):
        row |= {'se_position': position, 'channels': se.fc1.in_channels, 'hidden': se.fc1.out_channels}
    return row


def _count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def format_description(info: dict[str, Any]) -> str:
    """What `describe` gives, for people."""
    c, h, w = info['input_size']
    width = max([10, *(len(b['block']) + 1 for b in info['blocks'])])
    classes = '' if info['num_classes'] is None else f', {info["num_classes"]} classes'
    lines = [
        f'{info["architecture"]}: {info["recognised"]}{classes}',
        f'parameters  {info["parameters"]:>14,}  of which SE {info["se_parameters"]:,}'
        f' ({info["se_parameters"] / info["parameters"]:.1%})',
        f'FLOPs       {info["flops"]:>14,}  of which SE {info["se_flops"]:,}; one {c} x {h} x {w} image, a product '
        'and its addition count as two',
        '',
        f'{"block":<{width}}{"class":<14}{"parameters":>12}{"FLOPs":>15}  SE',
    ]
    for b in info['blocks']:
        se = f'{b["se_position"]}, {b["channels"]} -> {b["hidden"]}' if 'hidden' in b else '-'
        lines.append(f'{b["block"]:<{width}}{b["class"]:<14}{b["parameters"]:>12,}{b["flops"]:>15,}  {se}')
    return '\n'.join(lines)


@click.command('info', epilog='Example: timm-se50 info se_resnet50_patch --size 64')
@click.argument('checkpoint')
@click.option('--size', type=click.IntRange(1), help="Pixels to count FLOPs for; by default the model's own.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def command(checkpoint: str, size: int | None, as_json: bool):
    """Show parameters, FLOPs, SE settings and blocks of CHECKPOINT.

    CHECKPOINT is a folder, a name that timm knows (hf-hub:..., local-dir:...), or a model's name alone, which loads no
    weights (se_resnet50_patch).
    """
    check_name(checkpoint)
    description = describe(load_model(checkpoint, weights=False), size)
    click.echo(json.dumps(description, indent=2) if as_json else format_description(description))
