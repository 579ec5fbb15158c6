"""`timm-se50 gates`: from a checkpoint folder and image files to a table, a picture and JSON."""
import json

import matplotlib
import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import shake_
from matplotlib.figure import Figure
from PIL import Image
from timm.models import save_for_hf

import timm_se50
from timm_se50.cli.gates import examine_gates
from timm_se50.cli.main import main
from timm_se50.gates.collect import BlockGates
from timm_se50.gates.images import find_images
from timm_se50.gates.plot import _draw, plot_gates
from timm_se50.squeeze_excite import LOGIT_SCALE


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A checkpoint folder, written by timm itself; the gates of layer1.0 are 0.4, whatever the image."""
    torch.manual_seed(0)
    model = shake_(timm.create_model('se_resnet50_replace', num_classes=3, zero_init_last=False))
    for parameter in timm_se50.se_parameters(model):
        parameter.data.mul_(0.3)  # so that rounding is not made large by steep gates
    fc2 = model.layer1[0].se_standard.fc2
    fc2.weight.data.zero_()
    fc2.bias.data.fill_(torch.logit(torch.tensor(0.2)) / LOGIT_SCALE)
    folder = tmp_path_factory.mktemp('checkpoint')
    save_for_hf(model, str(folder), safe_serialization=True)
    return str(folder)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two folders, red and blue, of two images each; beside it two broken checkpoints."""
    root = tmp_path_factory.mktemp('images') / 'images'
    for name, config in (('broken', '{'), ('empty', '{}')):
        (root.parent / name).mkdir()
        (root.parent / name / 'config.json').write_text(config)
    generator = np.random.default_rng(0)
    for channel, name in ((0, 'red'), (2, 'blue')):
        (root / name).mkdir(parents=True)
        for i in range(2):
            pixels = generator.integers(0, 60, (40, 40, 3), np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(root / name / f'{i}.png')
    return root


def _run(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result


def test_table_picture_and_warning(checkpoint, images, tmp_path):
    result = _run('gates', checkpoint, images, '--size', 32, '-o', tmp_path / 'gates.png')
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.startswith('layer')}
    assert '4 images: blue 2, red 2' in result.stdout
    assert len(rows) == 16
    assert rows['layer1.0.se_standard'] == ['256', '0.4000', '0.4000', '0.4000', '0.0000', '0.0000']
    assert float(rows['layer1.1.se_standard'][-1]) > 0
    assert [line for line in result.stderr.splitlines() if 'layer1.0.se_standard: stuck' in line]
    with Image.open(tmp_path / 'gates.png') as picture:
        assert min(picture.size) > 500
        assert len(set(picture.convert('L').resize((200, 200)).tobytes())) > 50


def test_json(checkpoint, images):
    result = _run('gates', checkpoint, images / 'red', images / 'blue' / '0.png', '--size', 32, '--json')
    data = json.loads(result.stdout)
    assert data['classes'] == {'blue': 1, 'red': 2}
    assert [len(b['class_mean']) for b in data['blocks']] == [2] * 16
    assert data['blocks'][0]['class_mean'][0] == pytest.approx([0.4] * 256)
    assert data['warnings'][0].startswith('layer1.0.se_standard: stuck')


def test_batches_do_not_matter(checkpoint, images):
    one, all_ = (examine_gates(checkpoint, [images], 32, batch_size) for batch_size in (1, 4))
    for a, b in zip(one, all_, strict=True):
        # float32 convolutions of another batch size round otherwise, which 16 gated blocks in a row carry on
        torch.testing.assert_close(a.mean, b.mean, atol=1e-3, rtol=0)
        torch.testing.assert_close(a.std, b.std, atol=1e-3, rtol=0)


def test_class_of_an_image_is_its_folder(images, monkeypatch):
    monkeypatch.chdir(images / 'red')
    found = find_images(['0.png', images])
    assert [(p.name, c) for p, c in found] == [
        ('0.png', 'red'), ('0.png', 'blue'), ('1.png', 'blue'), ('0.png', 'red'), ('1.png', 'red')]


def test_lines_drawn_are_the_sorted_means():
    mean = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.2, 0.3]], dtype=torch.float64)
    block = BlockGates('layer1.0.se', 1.0, ('a', 'b'), torch.tensor([1.0, 1.0]).double(), mean, torch.zeros(2, 3))
    panel = Figure().subplots()
    _draw(panel, block)
    lines = {line.get_label(): line.get_ydata().tolist() for line in panel.get_lines()}
    assert lines['a'] == pytest.approx([0.1, 0.2, 0.3])
    assert lines['b'] == pytest.approx([0.2, 0.3, 0.5])
    assert lines['all images'] == pytest.approx([0.15, 0.25, 0.4])
    assert panel.get_title() == 'layer1.0.se (3 channels)'


def test_class_names_are_no_markup(tmp_path):
    mean = torch.rand(3, 4, dtype=torch.float64)
    block = BlockGates('se', 1.0, ('_hidden', r'$\foo$', 'c'), torch.ones(3).double(), mean, torch.zeros(3, 4))
    plot_gates([block], tmp_path / 'gates.svg', title='5 $ and $x_')
    text = (tmp_path / 'gates.svg').read_text()
    assert all(f'<!-- {name} -->' in text for name in (' _hidden', r'$\foo$', 'c', '5 $ and $x_'))


def test_drawing_leaves_the_users_backend(tmp_path):
    before = matplotlib.get_backend()
    mean = torch.rand(12, 4, dtype=torch.float64)
    block = BlockGates('se', 1.0, tuple('abcdefghijkl'), torch.ones(12).double(), mean, torch.zeros(12, 4))
    plot_gates([block], tmp_path / 'gates.svg')
    assert '2 more classes' in (tmp_path / 'gates.svg').read_text()
    assert matplotlib.get_backend() == before


def test_nan_is_named(images, tmp_path):
    model = timm.create_model('se_resnet50_replace', num_classes=3)
    model.layer3[2].conv2.weight.data[0, 0, 0, 0] = torch.nan
    timm_se50.save_checkpoint(model, tmp_path / 'diverged')
    result = _run('gates', tmp_path / 'diverged', images, '--size', 32, '--json', code=1)
    assert 'layer3.2.se_standard: its gates are NaN' in result.stderr


@pytest.mark.parametrize(('args', 'message'), [
    (('nowhere/model', '{images}'), 'nowhere/model'),
    (('{images}', '{images}'), 'holds no config.json'),
    (('{images}/red/0.png', '{images}'), 'is a file; expected a checkpoint folder'),
    (('{images}/../broken', '{images}'), 'broken/config.json is no JSON'),
    (('{images}/../empty', '{images}'), "empty/config.json names no 'architecture'"),
    (('resnet50.no_tag', '{images}'), 'resnet50.no_tag cannot be loaded'),
    (('local-dir:{images}/none', '{images}'), 'there is no such folder'),
    (('{checkpoint}', '{images}/none'), 'there is no such image or folder'),
    (('{checkpoint}', '{checkpoint}'), 'holds no images'),
    (('{checkpoint}', '{checkpoint}/config.json'), 'config.json cannot be read as an image'),
    (('{checkpoint}', '{images}', '-o', 'gates.xyz'), 'gates.xyz: expected a name that ends in one of'),
    (('{checkpoint}', '{images}', '-o', 'none/gates.png'), 'there is no folder none'),
])
def test_bad_input_is_one_line(checkpoint, images, args, message):
    result = _run('gates', *(a.format(checkpoint=checkpoint, images=images) for a in args), code=1)
    assert result.stdout == ''
    [line] = result.stderr.splitlines()
    assert message in line
