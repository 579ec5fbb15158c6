"""Training step and bytes saved for backward, with SE and memory_efficient=True, against timm's models.

    python benchmarks/training.py
    python benchmarks/training.py --batch-sizes 8 --image-sizes 160 --layouts channels_last --rounds 30
    python benchmarks/training.py --clock cpu  # on a busy machine: CPU time of a single thread
    python benchmarks/training.py --autocast --layouts channels_last  # bfloat16
    python benchmarks/training.py --narrow --batch-sizes 32 --image-sizes 32 96  # the study's network
    python benchmarks/training.py --compile  # all three through torch.compile, whole
    python benchmarks/training.py --device cuda --autocast --batch-sizes 128 --image-sizes 224

A step is zero_grad, forward, cross-entropy, backward and SGD with momentum. In a round each model takes one step, in an
order of its own; the figure is the median over rounds of the ratio to resnet50 within the round. Bytes are exact: what
autograd packs during one forward pass, each storage once and whole, the model's parameters and buffers left out. Of the
results filed it replaces those that it measures anew.
"""
import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from common import RESULTS, peak_bytes, update_json
from studies.source import NARROW
from timing import interleave
from tqdm import tqdm
from training_report import report

import timm_se50  # noqa: F401  # registers the models

MODELS = {
    'resnet50': ('resnet50', {}),
    'seresnet50': ('seresnet50', {}),
    'memory_efficient': ('se_resnet50_replace', {'memory_efficient': True}),
}
CLOCKS = {'wall': time.perf_counter, 'cpu': time.thread_time}


def saved_bytes(model: torch.nn.Module, forward: Callable[[torch.nn.Module], torch.Tensor]) -> int:
    """Bytes that `forward(model)` keeps for the backward pass."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        # kept by the graph, so that no address is used twice; the tensor itself would be a circle that nothing collects
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(model)
    assert output.requires_grad
    assert not getattr(output.grad_fn, '_tensors_no_vc_check', None)  # which compiled code saves and no hook sees
    return sum(nbytes for pointer, nbytes in storages.items() if pointer not in own)


def measure(args, batch: int, size: int, layout: str) -> dict:
    device = torch.device(args.device)
    memory_format = getattr(torch, layout)
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=memory_format)
    network = NARROW if args.narrow else {}
    targets = torch.randint(10, (batch,), device=device)

    def forward(model):
        with torch.autocast(device.type, torch.bfloat16, enabled=args.autocast):
            return model(images)

    def make_step(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def step():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(forward(model).float(), targets).backward()
            optimizer.step()
            if device.type == 'cuda':
                torch.cuda.synchronize()
        return step

    models = {
        name: timm.create_model(arch, **kwargs, **network).to(device, memory_format=memory_format).train()
        for name, (arch, kwargs) in MODELS.items()
    }
    runs = {name: torch.compile(m, fullgraph=True, dynamic=False) if args.compile else m for name, m in models.items()}
    steps = {name: make_step(run) for name, run in runs.items()}
    for step in steps.values():
        step()  # compiles
    nbytes = {name: saved_bytes(model, lambda m, run=runs[name]: forward(run)) for name, model in models.items()}
    peaks = {name: peak_bytes(step) for name, step in steps.items()} if device.type == 'cuda' else {}
    times = interleave(steps, args.rounds, args.warmup, CLOCKS[args.clock])

    result = {}
    for name in MODELS:
        ratios = sorted(a / b for a, b in zip(times[name], times['resnet50']))
        result[name] = {
            'saved_bytes': nbytes[name],
            'saved_ratio': nbytes[name] / nbytes['resnet50'],
            'step_seconds_median': statistics.median(times[name]),
            'step_seconds_min': min(times[name]),
            'step_ratio_median': statistics.median(ratios),
            'step_ratio_quartiles': [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
            'step_ratio_of_minima': min(times[name]) / min(times['resnet50']),
        } | ({'peak_bytes': peaks[name], 'peak_ratio': peaks[name] / peaks['resnet50']} if peaks else {})
    return {'models': result}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[8, 16])
    parser.add_argument('--image-sizes', type=int, nargs='+', default=[160, 224])
    parser.add_argument('--layouts', nargs='+', default=['contiguous_format', 'channels_last'],
                        choices=['contiguous_format', 'channels_last'])
    parser.add_argument('--rounds', type=int, default=12)
    parser.add_argument('--warmup', type=int, default=2)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--autocast', action='store_true', help='to bfloat16')
    parser.add_argument('--narrow', action='store_true', help="the study's network: fewer blocks, a quarter as wide")
    parser.add_argument('--compile', action='store_true', help='torch.compile(model, fullgraph=True)')
    parser.add_argument('--clock', default='wall', choices=list(CLOCKS), help='cpu sets one thread')
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of training.json, .md and .png')
    args = parser.parse_args()
    if args.clock == 'cpu':
        torch.set_num_threads(1)  # and backward runs in the thread that calls it

    for batch, size, layout in tqdm(list(itertools.product(args.batch_sizes, args.image_sizes, args.layouts))):
        part = f'{batch}, {size}, {layout.partition("_format")[0]}{", bfloat16" if args.autocast else ""}'
        part += ', narrow' * args.narrow + ', compiled' * args.compile + f', {args.device}' * (args.device != 'cpu')
        results = update_json(args.out / 'training.json', part, {
            'device': args.device, 'clock': args.clock, 'rounds': args.rounds, **measure(args, batch, size, layout)})
    report(results, args.out)


if __name__ == '__main__':
    main()
