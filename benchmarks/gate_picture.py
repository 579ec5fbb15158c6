"""The gates of the study's SE-ResNet-50 on Fashion-MNIST, after more training: a checkpoint folder, images, a picture.

    python benchmarks/gate_picture.py

goes on from the source of warm_start.py (run that first) with SE by this plugin for --steps steps, saves the model as
a checkpoint folder and test images as PNG by class, both below build/warm_start/, and runs on them what
`timm-se50 gates` runs. Writes gates.png and gates.md to benchmarks/results/. A trained model is not trained again.
"""
import argparse
import shutil
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from study.arms import make_arm
from study.data import FASHION, Task, load_fashion_task
from study.train import Recipe, train

import timm_se50
from timm_se50.cli.gates import examine_gates
from timm_se50.gates import format_gates
from timm_se50.gates.collect import gate_warnings
from timm_se50.gates.plot import plot_gates

ROOT = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=FASHION)
    parser.add_argument('--work', type=Path, default=ROOT.parent / 'build' / 'warm_start')
    parser.add_argument('-o', '--output', type=Path, default=ROOT / 'results')
    parser.add_argument('--steps', type=int, default=150)
    parser.add_argument('--lr', type=float, default=0.05)
    parser.add_argument('--se-lr-scale', type=float, default=1.0, help='SE modules: times --lr')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--test-images', type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = args.work / 'source.safetensors'
    if not source.is_file():
        raise SystemExit(f'{source} is missing; run benchmarks/warm_start.py first.')

    task = load_fashion_task(args.data, args.test_images)
    folder = args.work / f'gates-{args.steps}-steps'
    recipe = {'steps': args.steps, 'batch size': args.batch_size, 'lr': f'{args.lr:g}, cosine to 0',
              'lr of SE modules': f'{args.lr * args.se_lr_scale:g}'}
    if not folder.exists():
        model = make_arm('se_replace', safetensors.torch.load_file(source), seed=0, new_head=False)
        result = train(
            model, task, Recipe(args.steps, args.lr, args.batch_size), 0, (0, args.steps), 'SE-ResNet-50',
            args.se_lr_scale)
        print('test accuracy, %:', result['accuracy'])
        mean, std = (v.item() for v in task.statistics)
        timm_se50.save_checkpoint(
            model, folder, label_names=task.classes,
            data_config={'input_size': (3, 32, 32), 'mean': (mean,) * 3, 'std': (std,) * 3, 'crop_pct': 1.0},
            card=timm_se50.CardConfig(base_model=None, license=None, recipe=recipe))
    images = args.work / 'images'
    _write_images(task, images)

    blocks = examine_gates(str(folder), [images])
    title = f'Gates after {args.steps} steps with SE, {len(task.test[1]):,} test images of Fashion-MNIST at 32 px'
    plot_gates(blocks, args.output / 'gates.png', title)
    text = '\n'.join([format_gates(blocks), *(f'warning: {line}' for line in gate_warnings(blocks))])
    (args.output / 'gates.md').write_text(f'{title}\n\n```\n{text}\n```\n')
    print(text)


def _write_images(task: Task, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for i, (image, label) in enumerate(zip(*task.test, strict=True)):
        path = folder / task.classes[label] / f'{i:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).round().byte().numpy()).save(path)


if __name__ == '__main__':
    main()
