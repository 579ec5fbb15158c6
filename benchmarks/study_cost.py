"""What a training step of SE as it comes takes, in steps of the plain network: the study's "equal compute".

    python benchmarks/study_cost.py

Times the steps of study.py (its network, sizes, batch and optimizers, bfloat16 autocast, channels_last, one thread) by
the processor's time, the two models in turns within one process, so that others on the machine do little to the
ratio. Every start adds a repetition to results/study_cost.json. A size's factor is the median over the repetitions of
both optimizers; study.py has the factors of its tasks (LONGER).
"""
import argparse
import json
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles

import timm
import torch
import torch.nn.functional as F
from common import RESULTS, machine
from studies.arms import Source, make_arm
from studies.source import NARROW
from studies.train import OPTIMIZERS, Recipe, make_optimizer
from study import SIZES
from torch import Tensor
from tqdm import trange

FILE = RESULTS / 'study_cost.json'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=200)
    parser.add_argument('--batch-size', type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes, network = sorted(set(SIZES.values())), {**NARROW, 'num_classes': 10}
    source = Source(timm.create_model('resnet50', **network).state_dict(), network)
    filed = json.loads(FILE.read_text()) if FILE.exists() else {'factors': {}, 'repetitions': []}
    found = {'command': ' '.join(sys.argv), 'rounds': args.rounds, 'batch_size': args.batch_size, 'machine': machine()}
    for size in sizes:
        images, labels = torch.randn(args.batch_size, 3, size, size), torch.randint(10, (args.batch_size,))
        images = images.contiguous(memory_format=torch.channels_last)
        for optimizer in OPTIMIZERS:
            plain, se = (stepper(arm, source, optimizer, images, labels) for arm in ('plain', 'se'))
            found[f'{size} px, {optimizer}'] = compare(plain, se, args.rounds)
    filed['repetitions'].append(found)
    for size in sizes:
        ratios = [r[f'{size} px, {o}']['ratio'] for r in filed['repetitions'] for o in OPTIMIZERS]
        filed['factors'][str(size)] = {'median': median(ratios), 'least': min(ratios), 'most': max(ratios)}
        print(f'{size} px: {median(ratios):.2f} ({min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} ratios)')
    FILE.write_text(json.dumps(filed, indent=1) + '\n')


def stepper(arm: str, source: Source, optimizer: str, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """A function that trains an arm's model by one step, and returns the processor's seconds that it took."""
    model = make_arm(arm, source, 0, None).train()
    update = make_optimizer(model, Recipe(optimizer, 0.001, 0))

    def step() -> float:
        start = time.process_time()
        with torch.autocast('cpu', torch.bfloat16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        update.zero_grad()
        loss.backward()
        update.step()
        return time.process_time() - start
    return step


def compare(plain: Callable[[], float], se: Callable[[], float], rounds: int) -> dict[str, float]:
    """Median of the ratios of the two, each round's in the other order, its quartiles, and the plain step's time."""
    for _ in range(10):
        plain()
        se()
    ratios, seconds = [], []
    for i in trange(rounds, mininterval=10):
        if i % 2:
            taken, base = se(), plain()
        else:
            base, taken = plain(), se()
        ratios.append(taken / base)
        seconds.append(base)
    low, middle, high = quantiles(ratios, n=4)
    return {'ratio': middle, 'quartiles': [low, high], 'plain_seconds': median(seconds)}


if __name__ == '__main__':
    main()
