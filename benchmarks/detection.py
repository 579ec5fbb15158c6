"""A detector with SE and without: torchvision's Faster R-CNN, on scikit-learn's digits placed on a canvas.

No pretrained weights are at hand on a machine without internet access, so the plain detector is trained first, on
bright digits on black, and saved. From that one file it goes on, with SE and without, on fainter digits on noise.
"""
import argparse
import copy
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from common import RESULTS, update_json
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou
from tqdm import tqdm

from timm_se50 import replace_blocks_

SIZE, BATCH_SIZE = 64, 8
ARMS = ('without SE', 'with SE')
ANCHORS = ((12, 16, 20), (20, 24, 28), (24, 28, 32), (28, 32, 40), (40, 48, 56))


def build() -> FasterRCNN:
    """Faster R-CNN for images of 64 px: their size, small anchors, few proposals."""
    return fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=SIZE, max_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(ANCHORS, ((1.0,),) * 5),
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=100, rpn_batch_size_per_image=64,
        rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=50, box_batch_size_per_image=32)


Scene = tuple[Tensor, dict[str, Tensor]]  # an image and its targets


def scene(digits: list[Tensor], noisy: bool, generator: torch.Generator) -> Scene:
    """An image, (3, 64, 64), of one to three digits that do not overlap, and their boxes.

    Args:
        digits: Scans, (8, 8) each.
        noisy: Fainter, on grey noise; else bright on black.
        generator: What is drawn comes from it.
    """
    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    ground = 0.4 * float(torch.rand((), generator=generator)) if noisy else 0.0
    canvas = torch.full((SIZE, SIZE), ground)
    if noisy:
        canvas += 0.08 * torch.randn(SIZE, SIZE, generator=generator)
    boxes: list[Tensor] = []
    for _ in range(draw(1, 3)):
        scan = digits[draw(0, len(digits) - 1)]
        side = draw(16, 30)
        x, y = draw(0, SIZE - side), draw(0, SIZE - side)
        box = torch.tensor([[x, y, x + side, y + side]]).float()
        if boxes and box_iou(box, torch.cat(boxes)).any():
            continue
        ink = F.interpolate(scan[None, None], size=side, mode='bilinear')[0, 0]
        contrast = 0.4 + 0.2 * float(torch.rand((), generator=generator)) if noisy else 1.0
        canvas[y:y + side, x:x + side] += contrast * ink
        boxes.append(box)
    return canvas.clamp(0, 1).expand(3, -1, -1), dict(
        boxes=torch.cat(boxes), labels=torch.ones(len(boxes), dtype=torch.int64))


def train(
        model: FasterRCNN,
        digits: list[Tensor],
        noisy: bool,
        steps: int,
        lr: float,
        seed: int,
        eval_steps: Collection[int],
        test: list[Scene],
        label: str,
) -> dict[int, float]:
    """Train with AdamW and one cycle; the average precision at each of `eval_steps`."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of the detector's own sampling
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
    curve = {0: evaluate(model, test)} if 0 in eval_steps else {}
    for step in tqdm(range(1, steps + 1), desc=label, unit='step', mininterval=10):
        images, targets = zip(*(scene(digits, noisy, generator) for _ in range(BATCH_SIZE)))
        loss = sum(model.train()(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step in eval_steps:
            curve[step] = evaluate(model, test)
    return curve


def evaluate(model: FasterRCNN, scenes: list[Scene]) -> float:
    """Average precision at an overlap of 0.5, in percent."""
    found: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(scenes), 16):
            found += model.eval()([image for image, _ in scenes[start:start + 16]])
    return 100 * average_precision(found, [target for _, target in scenes])


def average_precision(found: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> float:
    """The area under precision by recall, at an overlap of 0.5.

    Args:
        found: For each image 'boxes' and 'scores', the best first.
        targets: For each image 'boxes'.
    """
    hits, scores = [], []
    for one, target in zip(found, targets, strict=True):
        taken = torch.zeros(len(target['boxes']), dtype=torch.bool)
        for overlaps in box_iou(one['boxes'], target['boxes']):
            overlaps = overlaps.masked_fill(taken, 0.0)
            hits.append(bool(overlaps.max() >= 0.5))
            if hits[-1]:
                taken[overlaps.argmax()] = True
        scores += one['scores'].tolist()
    if not any(hits):
        return 0.0
    # scikit-learn's recall is of what was found at all
    return average_precision_score(hits, scores) * sum(hits) / sum(len(t['boxes']) for t in targets)


def plot(runs: list[dict[str, dict[str, float]]], path: Path) -> None:
    """A line for each seed and arm."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(8.3, 4), layout='constrained')
    # each line's name is beside its second point: above and to the left, or below and to the right
    for arm, color, end, offset, side in zip(
            ARMS, ('#222222', '#d55e00'), (max, min), ((-8, 8), (10, -12)), ('right', 'left')):
        for run in runs:
            axes.plot([int(step) for step in run[arm]], list(run[arm].values()), color=color, marker='o', markersize=4)
        step = list(runs[0][arm])[1]
        axes.annotate(arm, (int(step), end(run[arm][step] for run in runs)), offset, textcoords='offset points',
                      color=color, weight='bold', ha=side)
    axes.set(xlabel='training step', ylabel='average precision at an overlap of 0.5, %', ylim=(None, 101))
    axes.set_title('A detector with SE and without, two seeds each', loc='left')
    axes.grid(alpha=0.25)
    figure.savefig(path, dpi=200)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, help='Folder to keep the plain detector in; what is there is used.')
    parser.add_argument('--base-rounds', type=int, default=1, help='Of the training of the plain detector.')
    parser.add_argument('--base-steps', type=int, default=100, help='Of each round.')
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--seeds', type=int, nargs='*', default=[1, 2], help='Each is filed as it is done.')
    parser.add_argument('--test-images', type=int, default=64)
    parser.add_argument('--output', type=Path, default=RESULTS)
    args = parser.parse_args(argv)

    scans = [torch.from_numpy(image).float() / 16 for image in load_digits().images]
    cut = len(scans) * 3 // 4  # those that follow are held out
    generator = torch.Generator().manual_seed(100)
    easy, hard = ([scene(scans[cut:], noisy, generator) for _ in range(args.test_images)] for noisy in (False, True))

    torch.manual_seed(0)
    plain = build()
    with tempfile.TemporaryDirectory() as tmp:
        for i in range(args.base_rounds):
            file = (args.work or Path(tmp)) / f'base-{i + 1}.safetensors'
            if not file.exists():
                train(plain, scans[:cut], False, args.base_steps, 1e-3, i, (), [], f'base, round {i + 1}')
                save_file(plain.state_dict(), file)
            plain.load_state_dict(load_file(file))
    settings = {k: v for k, v in vars(args).items() if not isinstance(v, Path) and k not in ('work', 'seeds')}
    path = args.output / 'detection.json'
    results = update_json(path, 'base', dict(settings=settings, ap50=evaluate(plain, easy)))

    every = max(1, args.steps // 4)
    eval_steps = {*range(0, args.steps, every), args.steps}
    for seed in args.seeds:
        curves = {}
        for arm in ARMS:
            model = copy.deepcopy(plain)
            if arm == 'with SE':
                replace_blocks_(model)
            curves[arm] = train(model, scans[:cut], True, args.steps, 3e-4, seed, eval_steps, hard, f'{arm}, {seed}')
        results = update_json(path, f'seed {seed}', dict(ap50=curves))
    runs = [record['ap50'] for part, record in results.items() if part != 'base']
    if runs:
        plot(runs, args.output / 'detection.png')


if __name__ == '__main__':
    main()
