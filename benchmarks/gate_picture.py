"""The gates of the study's network on Fashion-MNIST, after more training: a checkpoint folder, images, a picture.

    python benchmarks/gate_picture.py

goes on from the source of study.py (and trains it, unless that was done) with SE for --steps steps, saves the model as
a checkpoint folder and test images as PNG by class, both below build/study/, and runs on them what `timm-se50 gates`
runs. Writes gates.png and gates.md to benchmarks/results/. A trained model is not trained again.
"""
import argparse
import shutil
from pathlib import Path

import torch
from common import RESULTS
from PIL import Image
from studies.arms import make_arm
from studies.data import FASHION, TASKS, Task
from studies.source import NARROW, load_source
from studies.train import Recipe, train

import timm_se50
from timm_se50.cli.gates import examine_gates
from timm_se50.gates import format_gates, gate_warnings, plot_gates

SIZE = 32
IMAGES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=FASHION)
    parser.add_argument('--work', type=Path, default=Path(__file__).parents[1] / 'build' / 'study')
    parser.add_argument('-o', '--output', type=Path, default=RESULTS)
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--source-steps', type=int, default=1500)
    parser.add_argument('--lr', type=float, default=0.06)
    parser.add_argument('--batch-size', type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)

    task, device = TASKS['fashion'](SIZE, args.data), torch.device('cpu')
    folder = args.work / f'gates-{args.steps}-steps'
    if not folder.exists():
        source = load_source(args.work, NARROW, task, args.source_steps, True, device)
        model = make_arm('se', source, seed=0, classes=None)
        result = train(model, task, Recipe('sgd', args.lr, args.steps, args.batch_size), 0, device, 'with SE')
        print('test accuracy, %, by step:', result['curve'])
        mean, std = (v.item() for v in task.statistics)
        timm_se50.save_checkpoint(
            model, folder, label_names=task.classes,
            data_config={'input_size': (3, SIZE, SIZE), 'mean': (mean,) * 3, 'std': (std,) * 3, 'crop_pct': 1.0},
            card=timm_se50.CardConfig(base_model=None, license=None, recipe={
                'steps': args.steps, 'batch size': args.batch_size, 'lr': f'{args.lr:g}, cosine to 0'}))
    images = args.work / 'images'
    _write_images(task, images)

    blocks = examine_gates(str(folder), [images])
    title = f'Gates after {args.steps:,} steps with SE, {IMAGES:,} test images of Fashion-MNIST at {SIZE} px'
    plot_gates(blocks, args.output / 'gates.png', title)
    text = '\n'.join([format_gates(blocks), *(f'warning: {line}' for line in gate_warnings(blocks))])
    (args.output / 'gates.md').write_text(f'{title}\n\n```\n{text}\n```\n')
    print(text)


def _write_images(task: Task, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for i, (image, label) in enumerate(zip(*(t[:IMAGES] for t in task.test), strict=True)):
        path = folder / task.classes[label] / f'{i:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).round().byte().numpy()).save(path)


if __name__ == '__main__':
    main()
