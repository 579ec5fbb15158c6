"""Inference speed and memory of SE-ResNet-50 against timm's models; see README.md beside this file.

python benchmarks/inference.py
"""
import argparse
import copy
import itertools
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from common import RESULTS, update_json
from inference_report import report
from timing import interleave, make_run, median_ratio
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from timm_se50.inference.fuse import fuse_block

BASELINE = 'seresnet50'
EAGER = ('resnet50', BASELINE, 'se_resnet50', 'se_resnet50 reparameterized')
# What a user would pick instead, and the bounds
OTHERS = (
    'resnet50 in the same form', 'seresnet50, compile',
    *(f'{model}, {engine}' for engine in ('onnxruntime', 'openvino')
      for model in ('resnet50', 'seresnet50', 'se_resnet50 reparameterized')))


def seresnet50() -> nn.Module:
    """timm's seresnet50 with weights and statistics such that nothing in it is zero or one."""
    torch.manual_seed(0)
    model = timm.create_model('seresnet50', zero_init_last=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.3, 1.0)
                module.bias.normal_(0.0, 0.2)
        for _ in range(3):
            model(torch.randn(8, 3, 96, 96))
    return model.eval()


def same_form(model: nn.Module) -> nn.Module:
    """A plain ResNet whose blocks have what the inference form of an SE block has, except SE."""
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for name, block in stage.named_children():
            block.se_standard = None
            setattr(stage, name, fuse_block(block))
    return model


def make_model(name: str) -> nn.Module:
    if name.startswith('resnet50'):
        torch.manual_seed(0)
        model = timm.create_model('resnet50', zero_init_last=False).eval()
        model = same_form(model) if 'same form' in name else model
    else:
        model = seresnet50()
    if name.startswith('se_resnet50'):
        weights, model = model.state_dict(), timm.create_model('se_resnet50_replace').eval()
        model.load_state_dict(weights)
    if 'reparameterized' in name:
        model = timm.models.reparameterize_model(model)
    return model.to(memory_format=torch.channels_last)


def make_images(batch_size: int, size: int = 224) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch_size, 3, size, size).to(memory_format=torch.channels_last)


def speed(batch_size: int, rounds: int, clock: Callable[[], float]) -> dict:
    images = make_images(batch_size)
    runs = {}
    for name in tqdm(EAGER + OTHERS, 'making'):
        model, _, engine = name.partition(', ')
        runs[name] = make_run(engine or 'eager', make_model(model), images)
    times = interleave(runs, rounds, clock=clock)
    return {
        'rounds': rounds,
        'clock': clock.__name__,
        'milliseconds': {name: 1e3 * statistics.median(t) for name, t in times.items()},
        'speed': {to: {name: median_ratio(times[to], t) for name, t in times.items()} for to in times},
    }


def growth(rounds: int, clock: Callable[[], float]) -> dict:
    rows = []
    models = {name: make_model(name) for name in EAGER}
    for batch_size, size in tqdm([(1, 224), (2, 224), (4, 224), (8, 224), (16, 224), (4, 160), (4, 288), (4, 384)]):
        images = make_images(batch_size, size)
        with torch.no_grad():
            times = interleave({k: partial(m, images) for k, m in models.items()}, rounds, 1, clock)
        rows.append({'batch_size': batch_size, 'size': size, 'speed': {
            name: median_ratio(times[BASELINE], t) for name, t in times.items()},
            'milliseconds': {name: 1e3 * statistics.median(t) for name, t in times.items()}})
    return {'rounds': rounds, 'clock': clock.__name__, 'rows': rows}


def peak(model: nn.Module, images: Tensor) -> float:
    """MiB that a forward pass holds at its peak beyond weights and images, by PyTorch's count of its allocations."""
    with torch.no_grad():
        model(images)  # which reorders weights, once
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            model(images)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == '[memory]']
    held = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(held) / 2 ** 20


def memory() -> dict:
    models = {name: make_model(name) for name in EAGER}
    return {str(n): {name: peak(m, make_images(n)) for name, m in models.items()} for n in (1, 8)}


def agreement(images: int = 48) -> dict:
    """The reparameterized model's outputs against the model's own and against float64."""
    model, fused = make_model('se_resnet50'), make_model('se_resnet50 reparameterized')
    exact = copy.deepcopy(model).double()
    outputs = []
    with torch.no_grad():
        for part in tqdm(make_images(images).split(8), 'agreement'):
            outputs.append((model(part), fused(part), exact(part.double())))
    a, b, c = map(torch.cat, zip(*outputs))
    return {
        'images': images,
        'same_argmax': (a.argmax(1) == b.argmax(1)).sum().item(),
        'largest_output': a.abs().max().item(),
        'max_abs_difference': (a - b).abs().max().item(),
        'max_abs_difference_to_float64': {'model': (a - c).abs().max().item(), 'fused': (b - c).abs().max().item()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--parts', nargs='+', default=['agreement', 'memory', 'speed-1', 'speed-8', 'growth'])
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--rounds', type=int, default=21, help='of batch 1; a third of that at batch 8 and above')
    parser.add_argument('--cpu-time', action='store_true', help='measure that, with one thread: for a busy machine')
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter

    parts = {
        'agreement': agreement,
        'memory': memory,
        'speed-1': lambda: speed(1, args.rounds, clock),
        'speed-8': lambda: speed(8, args.rounds // 3, clock),
        'growth': lambda: growth(args.rounds // 3, clock),
    }
    kept = ', memory kept' if 'MALLOC_TRIM_THRESHOLD_' in os.environ else ''  # of no account where nothing is timed
    for part in args.parts:
        name = part + kept if part.startswith(('speed', 'growth')) else part
        results = update_json(args.out / 'inference.json', name, parts[part]())
    report(results, args.out)


if __name__ == '__main__':
    main()
