"""Does SE pay? One trained ResNet, several ways to go on from it, on real images; see docs/study.md.

    python benchmarks/study.py                                          # the small network, on a CPU
    python benchmarks/study.py --tasks digits --optimizers sgd          # a part of it
    python benchmarks/study.py --device cuda --layers 3 4 6 3 --width 1 --size 96   # ResNet-50 itself, on a GPU

The source is trained on Fashion-MNIST; from it every arm of studies/arms.py goes on, on every task. Each arm chooses
its learning rate from the same grid, and beyond its end if that is best, by the validation part (seed 0), then runs on
the other seeds; what did best on the validation part is run again on fresh seeds, beside plain (first of the main arms,
then of all, if another did better). Writes study/TASK.json, and study.md and study.png, to benchmarks/results/. Each
run is kept as soon as it is done: started again with the same settings, it goes on where it was cut. Images: `apt-get
install dataset-fashion-mnist`, `pip install elpv-dataset scikit-learn`. The arm of composer needs `pip install
mosaicml`, and is left out without it.
"""
import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from common import RESULTS, machine
from studies.arms import ARMS, has_composer, make_arm
from studies.data import FASHION, TASKS
from studies.earned import write_report
from studies.record import Key, Record
from studies.source import NARROW, load_source
from studies.train import OPTIMIZERS, Recipe, train

SIZES = {'solar': 96, 'fashion': 32, 'digits': 32}
# Steps of the plain network in the time of one with SE as it comes, on the small network: study_cost.py
LONGER = {'solar': 1.32, 'fashion': 1.34, 'digits': 1.34}
LEARNING_RATES = {'sgd': (0.006, 0.02, 0.06, 0.2), 'adamw': (1e-4, 3e-4, 1e-3, 3e-3)}


def main() -> None:
    args = _parse()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    network = {'layers': tuple(args.layers), 'channels': tuple(int(args.width * c) for c in (64, 128, 256, 512))}
    fashion = TASKS['fashion'](args.size or SIZES['fashion'], args.data)
    for name in args.tasks:
        task = fashion if name == 'fashion' else TASKS[name](args.size or SIZES[name], args.data)
        longer = args.longer or LONGER[name]
        record = Record(args.output / 'study' / f'{name}.json', {
            'network': network, 'size': task.train[0].shape[-1], 'steps': args.steps, 'batch_size': args.batch_size,
            'source_steps': args.source_steps, 'seeds': args.seeds, 'longer': longer, 'learning_rates': LEARNING_RATES,
            'images': [len(part[1]) for part in (task.train, task.val, task.test)]}, machine())
        source = load_source(args.work, network, fashion, args.source_steps, args.amp, device)
        for key in _plan(record, args):
            arm = ARMS[key.arm]
            steps = round(args.steps * longer) if arm.longer else args.steps
            recipe = Recipe(key.optimizer, key.lr, steps, args.batch_size, args.amp, arm.se_lr)
            model = make_arm(key.arm, source, key.seed, None if name == 'fashion' else len(task.classes))
            record.add(key, train(model, task, recipe, key.seed, device, f'{name}: {key}'))
            write_report(args.output)
    write_report(args.output)  # there may have been nothing left to run
    print((args.output / 'study.md').read_text())


def _plan(record: Record, args: argparse.Namespace) -> Iterator[Key]:
    """What is left to run, in order; what comes later depends on what came out."""
    arms = [a for a in ARMS if a in args.arms and (a != 'composer' or has_composer())]
    main, others = ([a for a in arms if ARMS[a].main == kind] for kind in (True, False))
    for optimizer, arms in (*((o, main) for o in args.optimizers), (args.optimizers[0], others)):
        for arm in arms:
            yield from _grid(record, optimizer, arm)
        for seed in range(1, args.seeds):
            yield from record.missing(Key(optimizer, arm, record.best_lr(optimizer, arm), seed) for arm in arms)
        if {'plain', 'plain_longer', 'se'} <= set(main):
            for seed in range(args.seeds, 2 * args.seeds):
                yield from record.missing(
                    Key(optimizer, arm, record.best_lr(optimizer, arm), seed)
                    for arm in ('plain', 'plain_longer', *record.winners(optimizer, args.seeds)))


def _grid(record: Record, optimizer: str, arm: str) -> Iterator[Key]:
    """Seed 0 at each learning rate of the grid; where the best is at an end, up to two more beyond that end."""
    grid = LEARNING_RATES[optimizer]
    yield from record.missing(Key(optimizer, arm, lr, 0) for lr in grid)
    while len(tried := record.tried(optimizer, arm)) < len(grid) + 2:
        best = record.best_lr(optimizer, arm)
        if best not in (min(tried), max(tried)):
            break
        yield Key(optimizer, arm, float(f'{best * 10 / 3 if best == max(tried) else best * 3 / 10:.1g}'), 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', nargs='+', choices=list(TASKS), default=list(TASKS))
    parser.add_argument('--optimizers', nargs='+', choices=list(OPTIMIZERS), default=list(OPTIMIZERS))
    parser.add_argument('--arms', nargs='+', choices=list(ARMS), default=list(ARMS),
                        help='all by default; those that are not the main ones run with the first optimizer only')
    parser.add_argument('--layers', type=int, nargs=4, default=NARROW['layers'],
                        help='blocks by stage (%(default)s: ResNet-26)')
    parser.add_argument('--width', type=float, default=0.25, help="times a ResNet-50's channels (%(default)s)")
    parser.add_argument('--size', type=int, help=f'pixels, of all tasks; by default {SIZES}')
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--longer', type=float,
                        help=f"times the steps of plain at equal compute, study_cost.py's; by default {LONGER}")
    parser.add_argument('--source-steps', type=int, default=1500)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--amp', action=argparse.BooleanOptionalAction, default=True, help='bfloat16 autocast')
    parser.add_argument('--data', type=Path, default=FASHION,
                        help='folder of the .gz files of Fashion-MNIST (%(default)s)')
    parser.add_argument('-o', '--output', type=Path, default=RESULTS, help='folder for the results')
    parser.add_argument('--work', type=Path, default=Path(__file__).parents[1] / 'build' / 'study',
                        help='folder for weights')
    return parser.parse_args()


if __name__ == '__main__':
    main()
