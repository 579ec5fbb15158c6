"""`timm-se50 bench`: how fast the models run on this machine, against timm's resnet50."""
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import timm
import torch
from timm.utils import reparameterize_model  # timm.models has it from 1.0.31 on
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from .engines import ENGINES, make_run

__all__ = ['bench', 'command', 'format_bench', 'interleave', 'median_ratio']


def bench(
        batch_size: int = 8,
        image_size: int = 224,
        rounds: int = 7,
        train: bool = False,
        device: str = 'cpu',
        engines: Sequence[str] = ('eager',),
) -> dict[str, dict[str, float]]:
    """Time a forward pass, or a training step, of our model and timm's, in turn; weights are random.

    Args:
        batch_size: Images in a batch.
        image_size: Their height and width, in pixels.
        rounds: How often each model runs.
        train: Time forward, cross-entropy, backward and an SGD step in place of a forward pass.
        device: Where to run.
        engines: What is to run the forward passes, of 'eager', 'compile', 'onnxruntime' and 'openvino'.

    Returns:
        By model (and engine, where that is not 'eager'): 'seconds', the median over the rounds, and 'ratio', the median
        ratio to resnet50 in the first engine, in the same round.

    Raises:
        ValueError: There is no such device, or no such engine.
    """
    if unknown := set(engines) - set(ENGINES):
        raise ValueError(f'engines={engines!r}: no {sorted(unknown)[0]!r}. Expected {", ".join(ENGINES)}.')
    if train and tuple(engines) != ('eager',):
        raise ValueError(f"engines={engines!r}: training steps are timed in 'eager' only.")
    try:
        x = torch.randn(batch_size, 3, image_size, image_size, device=device)
    except (AssertionError, RuntimeError) as e:  # the former where PyTorch was built without it
        said = str(e).splitlines()[0]
        raise ValueError(f'device={device!r}: {said}. Expected one that PyTorch has here, such as cpu.') from e
    models: dict[str, nn.Module] = {name: timm.create_model(name) for name in ('resnet50', 'seresnet50')}
    models['se_resnet50'] = timm.create_model('se_resnet50_replace')
    if train:
        models['memory_efficient=True'] = timm.create_model('se_resnet50_replace', memory_efficient=True)
    else:
        models['reparameterized'] = reparameterize_model(models['se_resnet50'])
    for model in models.values():
        model.to(device).train(train)
    if train:
        runs = {name: _training_step(model, x) for name, model in models.items()}
    else:
        runs = {name if engine == 'eager' else f'{name}, {engine}': make_run(engine, model, x)
                for engine in engines for name, model in models.items()}
    times = interleave(runs, rounds, warmup=1)
    first = next(iter(times.values()))
    return {name: dict(seconds=statistics.median(seconds), ratio=median_ratio(seconds, first))
            for name, seconds in times.items()}


def format_bench(results: Mapping[str, Mapping[str, float]]) -> str:
    """The results as a table."""
    lines = [f'{"":28}{"ms":>9}{"resnet50 = 1":>15}']
    return '\n'.join(lines + [f'{n:28}{r["seconds"] * 1e3:9.1f}{r["ratio"]:15.3f}' for n, r in results.items()])


def interleave(
        runs: Mapping[str, Callable[[], Any]],
        rounds: int,
        warmup: int = 2,
        clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in each round. A round has every run once, so that what slows the machine slows them all.

    Their order is another in every round: what a run leaves behind, such as threads that still spin, meets others.
    On a machine that others use as well, `time.process_time` and one thread leave out the time that others had.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), unit='round', ncols=100, delay=2):
        for name in random.sample(list(runs), len(runs)):
            start = clock()
            runs[name]()
            times[name].append(clock() - start)
    return times


def median_ratio(of: list[float], to: list[float]) -> float:
    """Median over the rounds of the ratio of two runs within a round."""
    return statistics.median(a / b for a, b in zip(of, to))


def _training_step(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    y = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def run():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if x.device.type != 'cpu':
            torch.get_device_module(x.device).synchronize()
    return run


@click.command('bench')
@click.option('--batch-size', type=click.IntRange(1), default=8, show_default=True)
@click.option('--size', 'image_size', type=click.IntRange(32), default=224, show_default=True, help='Pixels.')
@click.option('--rounds', type=click.IntRange(1), default=7, show_default=True)
@click.option('--train', is_flag=True, help='Time training steps in place of forward passes.')
@click.option('--device', default='cpu', show_default=True)
@click.option('--engine', 'engines', type=click.Choice(list(ENGINES)), multiple=True, default=['eager'],
              show_default=True, help='What runs the forward passes; more than one may be given.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def command(as_json, **options):
    """Time our model and timm's on this machine, in turn."""
    results = bench(**options)
    click.echo(json.dumps(results) if as_json else format_bench(results))
