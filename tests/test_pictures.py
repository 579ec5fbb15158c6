"""No picture is cut off: at its outermost pixels there is nothing but background."""
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from timm_se50.cli.digits import plot_curves
from timm_se50.gates import BlockGates, plot_gates

ROOT = Path(__file__).parents[1]
PICTURES = sorted(path for folder in ('benchmarks', 'docs', 'hub_cards', 'notebooks')
                  for path in (ROOT / folder).rglob('*.png'))


def draw_positions(path):
    runpy.run_path(ROOT / 'docs' / 'draw_positions.py')['draw']().savefig(path)


def draw_curves(path, steps):
    curves = {'ResNet-50': [(0, 0.1), (63, 0.99)]}
    for name, share in {'se_resnet50_replace': 0.99, 'random gates': 0.1, 'ResNet-50, no SE': 0.99}.items():
        curves[name] = [(step, share) for step in steps]
    plot_curves(curves, path)


def draw_gates(path, count):
    classes = tuple(f'{i}, as the long names of ImageNet, from one to another' for i in range(10))
    mean = torch.rand(10, 64, dtype=torch.float64)
    block = BlockGates('layer1.0.se_standard', 2.0, classes, torch.ones(10).double(), mean, mean / 9)
    plot_gates([block] * count, path, 'Gates of ' + 60 * 'a/')


def edge(path):
    """The colours of the outermost pixels."""
    pixels = np.asarray(Image.open(path).convert('RGBA'))
    return np.unique(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)


@pytest.mark.parametrize('path', PICTURES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_cut_off(path):
    background, = edge(path).tolist()
    assert background[3] == 255  # to be read on a dark page, too


@pytest.mark.parametrize(('draw', 'arguments'), [
    (draw_positions, ()), (draw_curves, [(0, 11, 21)]), (draw_curves, [(0,)]), (draw_gates, [1]), (draw_gates, [3])])
def test_nothing_that_is_drawn_is_cut_off(draw, arguments, tmp_path):
    draw(tmp_path / 'picture.png', *arguments)
    assert len(edge(tmp_path / 'picture.png')) == 1
