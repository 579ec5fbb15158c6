"""A picture of the study: test accuracy by step, each line named where it runs."""
import itertools
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from .record import Record

__all__ = ['plot']

# Name and colour of what is drawn; ours is wide and pale, beneath the others, to be seen where the plain one lies on it
LINES = {
    'se': ('this plugin', '#d55e00'),
    'plain': ('plain ResNet', '#222222'),
    'random': ('random gates', '#0072b2'),
    'composer': ('pasted after convolutions', '#8e44ad'),
}
GAP = 9  # pixels between a line and its name


def plot(records: Mapping[str, Record], titles: Mapping[str, str], path: Path) -> None:
    """Draw a panel for each task, one below the other, of its first optimizer.

    Args:
        records: By task.
        titles: By task.
        path: Of the PNG.
    """
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    with plt.rc_context({'font.size': 11, 'axes.spines.top': False, 'axes.spines.right': False}):
        figure, axes = plt.subplots(
            len(records), figsize=(8.3, 0.6 + 3.6 * len(records)), squeeze=False, layout='constrained')
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
        figure.suptitle('What a trained ResNet knows after SE is put in, by way of putting it in', weight='bold')
        for axis, task in zip(axes[:, 0], records, strict=True):
            axis.set_title(titles[task], loc='left', fontsize='small', color='#555555')
            axis.set(xlabel='steps of training after that', ylabel='test accuracy, %')
            axis.grid(alpha=0.25)
        curves = [_curves(axis, record) for axis, record in zip(axes[:, 0], records.values(), strict=True)]
        figure.draw_without_rendering()  # now every point has its place
        for axis, means in zip(axes[:, 0], curves, strict=True):
            _name(axis, means)
        figure.savefig(path, dpi=200)
        plt.close(figure)


def _curves(axis: Any, record: Record) -> dict[str, list[float]]:
    """Draw the mean of an arm's seeds, and pale their range; return the means by arm."""
    optimizer = next(iter(record.data['settings']['learning_rates']))
    means = {}
    for arm, (_, color) in LINES.items():
        if arm in record.arms(optimizer):
            curves = [run['curve'] for run in record.seeds(optimizer, arm).values()]
            by_step = [[curve[step] for curve in curves] for step in curves[0]]
            x, means[arm] = range(len(by_step)), list(map(mean, by_step))
            wide = {'lw': 9, 'alpha': 0.4} if arm == 'se' else {'lw': 2, 'marker': 'o', 'markersize': 4}
            axis.plot(x, means[arm], color=color, solid_capstyle='round', **wide)
            axis.fill_between(x, *([end(v) for v in by_step] for end in (min, max)), alpha=0.1, color=color, lw=0)
            axis.set_xticks(x, curves[0])
    axis.margins(x=0.03, y=0.15)
    return means


def _name(axis: Any, means: Mapping[str, list[float]]) -> None:
    """Write each line's name beside it: on no line, where the other lines and the names before it are far away."""
    lines = {arm: axis.transData.transform(_dense(values)) for arm, values in means.items()}
    frame, names = axis.get_window_extent(), np.empty((0, 2))
    for arm, line in lines.items():
        text, color = LINES[arm]
        label = axis.text(0, 0, text, transform=None, color=color, weight='bold', ha='center', va='center')
        half = label.get_window_extent().size / 2
        sides = np.array([*itertools.product((-1, 0, 1), repeat=2)]) * (half + GAP)
        points = np.repeat(line, len(sides), axis=0)
        centers = points + np.tile(sides, (len(line), 1))
        inside = ((centers - half > frame.min + GAP) & (centers + half < frame.max)).all(1)
        centers, points = centers[inside], points[inside]
        others = np.concatenate([names[:0], *(other for name, other in lines.items() if name != arm)])
        room = (20 * _room(centers, half, np.concatenate([line, others])).clip(max=GAP)
                + _room(points, 0, others).clip(max=60) + _room(centers, half, names).clip(max=60))
        center = centers[room.argmax()]
        label.set(position=axis.transData.inverted().transform(center), transform=axis.transData)
        names = np.concatenate([names, center + np.outer(np.linspace(-1, 1, 21), (half[0], 0))])


def _dense(values: list[float]) -> np.ndarray:
    """Many points of the line through the values."""
    at = np.linspace(0, len(values) - 1, 201)
    return np.column_stack([at, np.interp(at, range(len(values)), values)])


def _room(centers: np.ndarray, half: np.ndarray | int, points: np.ndarray) -> np.ndarray:
    """Pixels between the box around each center, of half that size, and the nearest of the points."""
    away = np.maximum(abs(centers[:, None] - points) - half, 0)
    return np.hypot(away[..., 0], away[..., 1]).min(1, initial=1e3)
