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


def edge(path):
    """The colours of the outermost pixels."""
    pixels = np.asarray(Image.open(path).convert('RGBA'))
    return np.unique(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)


@pytest.mark.parametrize('path', PICTURES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_cut_off(path):
    background, = edge(path).tolist()
    assert background[3] == 255  # to be read on a dark page, too


def test_what_is_cut_off_is_seen(tmp_path):
    picture = Image.new('RGB', (30, 20), 'white')
    picture.putpixel((29, 7), (40, 40, 40))
    picture.save(tmp_path / 'cut.png')
    assert len(edge(tmp_path / 'cut.png')) == 2


def test_positions_are_not_cut_off(tmp_path):
    runpy.run_path(ROOT / 'docs' / 'draw_positions.py')['draw']().savefig(tmp_path / 'positions.png')
    assert len(edge(tmp_path / 'positions.png')) == 1


@pytest.mark.parametrize('steps', [(0, 11, 21), (0,)], ids=['tuned', 'not tuned'])
def test_the_demos_curves_are_not_cut_off(tmp_path, steps):
    names = {'se_resnet50_replace': 0.99, 'random gates': 0.1, 'ResNet-50, no SE': 0.99}
    plot_curves({'ResNet-50': [(0, 0.1), (63, 0.99)], **{name: [(step, share) for step in steps]
                                                         for name, share in names.items()}}, tmp_path / 'curves.png')
    assert len(edge(tmp_path / 'curves.png')) == 1


@pytest.mark.parametrize('count', [1, 3])
def test_gates_are_not_cut_off(tmp_path, count):
    classes = tuple(f'{i}, as the long names of ImageNet, from one to another' for i in range(10))
    mean = torch.rand(10, 64, dtype=torch.float64)
    block = BlockGates('layer1.0.se_standard', 2.0, classes, torch.ones(10).double(), mean, mean / 9)
    plot_gates([block] * count, tmp_path / 'gates.png', 'Gates of ' + 60 * 'a/')
    assert len(edge(tmp_path / 'gates.png')) == 1
