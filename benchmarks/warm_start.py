"""Does it help to keep the function? One trained ResNet-50, several ways to put SE into it, two tasks to go on with.

    python benchmarks/warm_start.py

trains the source on Fashion-MNIST at 32 px, then goes on from it with every arm of study/arms.py, on Fashion-MNIST and
on the digits of scikit-learn with a new head, and writes warm_start.json, .png and .md to benchmarks/results/. Every
finished run is kept: started again with the same settings, it goes on where it was cut; the report of an unfinished
study says how many seeds each figure has. Images: `apt-get install dataset-fashion-mnist`. Arm se_composer needs
`pip install mosaicml` and is left out, and named as such, without it.
"""
import argparse
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import safetensors.torch
import timm
import torch
from study.arms import ARMS, SE_LR_SCALE, has_composer, make_arm
from study.data import FASHION, load_digits_task, load_fashion_task
from study.report import write_report
from study.train import Recipe, train


def main() -> None:
    args = _parse()
    torch.set_num_threads(args.threads)
    tasks = {t.name: t for t in (load_fashion_task(args.data, args.test_images), load_digits_task(args.test_images))}
    source_recipe = Recipe(args.source_steps, args.source_lr, args.batch_size, amp=args.amp)
    recipe = Recipe(args.steps, args.lr, args.batch_size, amp=args.amp)
    settings = {
        'source': asdict(source_recipe), 'recipe': asdict(recipe), 'seeds': args.seeds, 'size': 32,
        'train_images': {n: len(t.train[1]) for n, t in tasks.items()},
        'test_images': {n: len(t.test[1]) for n, t in tasks.items()}}
    path = args.output / 'warm_start.json'
    study = _open(path, settings)

    weights = _source(args.work, tasks['fashion'], source_recipe, study)
    _save(path, study)
    done = {(r['task'], r['arm'], r['seed']) for r in study['runs']}
    for seed in range(args.seeds):
        for name, task in tasks.items():
            for arm in ARMS:
                if (name, arm, seed) in done or (arm == 'se_patch' and seed) or arm in study['left_out']:
                    continue
                model = make_arm(arm, weights, seed, new_head=name != 'fashion')
                result = train(
                    model, task, recipe, seed, _eval_steps(args.steps), f'{name}, {arm}, seed {seed}',
                    SE_LR_SCALE.get(arm, 1.0))
                study['runs'].append({'task': name, 'arm': arm, 'seed': seed, **result})
                _save(path, study)
                if arm == 'se_replace' and seed == 0:
                    safetensors.torch.save_file(_contiguous(model), args.work / f'{arm}-{name}.safetensors')
        write_report(study, args.output)
    print((args.output / 'warm_start.md').read_text())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).parent
    parser.add_argument('--data', type=Path, default=FASHION, help='folder of the four .gz files (%(default)s)')
    parser.add_argument('-o', '--output', type=Path, default=root / 'results', help='folder for the results')
    parser.add_argument('--work', type=Path, default=root.parent / 'build' / 'warm_start', help='folder for weights')
    parser.add_argument('--source-steps', type=int, default=400)
    parser.add_argument('--source-lr', type=float, default=0.05)
    parser.add_argument('--steps', type=int, default=64)
    parser.add_argument('--lr', type=float, default=0.02)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--test-images', type=int, default=1000, help='at most, of each task')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--amp', action=argparse.BooleanOptionalAction, default=True, help='bfloat16 autocast')
    args = parser.parse_args()
    for folder in (args.output, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    return args


def _eval_steps(steps: int) -> tuple[int, ...]:
    """0, and halvings of the number of steps: what differs early differs most."""
    return (0, *sorted({max(steps // d, 1) for d in (16, 8, 4, 2, 1)}))


def _open(path: Path, settings: dict) -> dict:
    """The study at `path` to go on with, or a new one."""
    if path.exists():
        study = json.loads(path.read_text())
        if study['settings'] != settings:
            raise SystemExit(
                f'{path} is of other settings: {study["settings"]}, asked for {settings}. '
                'Start with the same to go on with it, or name another folder by -o (and --work).')
        return study
    composer = has_composer()
    environment = {p: _version(p) for p in ('torch', 'timm', *(['mosaicml'] if composer else []))}
    environment |= {'python': platform.python_version(), 'cpu': _cpu(), 'threads': torch.get_num_threads()}
    return {'settings': settings, 'environment': environment, 'left_out': [] if composer else ['se_composer'],
            'source': None, 'runs': []}


def _source(folder: Path, task, recipe: Recipe, study: dict) -> dict[str, torch.Tensor]:
    """The trained ResNet-50: its state dict, trained here unless it was before."""
    path = folder / 'source.safetensors'
    if study['source'] and path.exists():
        return safetensors.torch.load_file(path)
    torch.manual_seed(0)
    model = timm.create_model('resnet50', num_classes=10).to(memory_format=torch.channels_last)
    study['source'] = train(model, task, recipe, 1000, _eval_steps(recipe.steps), 'source')
    study['runs'] = []  # whatever began from another source
    safetensors.torch.save_file(_contiguous(model), path)
    return model.state_dict()


def _contiguous(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.contiguous() for k, v in model.state_dict().items()}


def _save(path: Path, study: dict) -> None:
    part = path.with_suffix('.part')
    part.write_text(json.dumps(study, indent=1) + '\n')
    os.replace(part, path)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return 'not installed as a package'


def _cpu() -> str:
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(': ')[2] for line in lines if line.startswith('model name')), platform.processor())


if __name__ == '__main__':
    main()
