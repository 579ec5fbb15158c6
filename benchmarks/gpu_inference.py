"""Inference on a GPU: timm's resnet50 and seresnet50 and our inference form, eager and compiled; see gpu.sh.

    python benchmarks/gpu_inference.py --dtypes float16 --compile

In a round each model runs once, in an order of its own; the figure is the median over rounds of the ratio to resnet50
within the round. Each part is written to gpu_inference.json as soon as it is measured.
"""
import argparse
import statistics
from pathlib import Path

import timm
import torch
from common import RESULTS, peak_bytes, update_json
from timing import interleave, median_ratio
from timm.utils import reparameterize_model
from torch import nn

import timm_se50  # noqa: F401  # registers the models


def make(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    model = timm.create_model('se_resnet50_replace' if name == 'inference form' else name, zero_init_last=False).eval()
    if name == 'inference form':
        model = reparameterize_model(model)
    return model.to(device, dtype).to(memory_format=torch.channels_last)


@torch.inference_mode()
def measure(args: argparse.Namespace, dtype: str, batch: int) -> dict:
    device = torch.device(args.device)
    x = torch.randn(batch, 3, args.size, args.size, device=device, dtype=getattr(torch, dtype))
    x = x.contiguous(memory_format=torch.channels_last)
    repeat = max(1, 256 // batch) if device.type == 'cuda' else 1  # a batch of one is over sooner than a clock ticks
    runs, peaks = {}, {}
    for name in ('resnet50', 'seresnet50', 'inference form'):
        model = make(name, device, x.dtype)
        if args.compile:
            model = torch.compile(model, fullgraph=True, dynamic=False)

        def run(model=model):
            for _ in range(repeat):
                model(x)
            if device.type == 'cuda':
                torch.cuda.synchronize()
        run()
        if device.type == 'cuda':
            peaks[name] = peak_bytes(run)
        runs[name] = run
    times = interleave(runs, args.rounds)
    return {name: {
        'milliseconds': statistics.median(seconds) * 1e3 / repeat,
        'ratio': median_ratio(seconds, times['resnet50']),
        'peak_bytes': peaks.get(name),
    } for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dtypes', nargs='+', default=['float16', 'bfloat16'])
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 32, 256])
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--out', type=Path, default=RESULTS)
    args = parser.parse_args()
    for dtype in args.dtypes:
        for batch in args.batch_sizes:
            part = f'{args.device}, {dtype}, {batch}, {args.size}{", compiled" * args.compile}'
            models = measure(args, dtype, batch)
            update_json(args.out / 'gpu_inference.json', part, {'models': models})
            print(part, *(f'{k} {v["ratio"]:.3f}' for k, v in models.items()), sep=' | ', flush=True)


if __name__ == '__main__':
    main()
