"""No picture is cut off: at its outermost pixels there is nothing but background."""
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
