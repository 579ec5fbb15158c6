"""`timm-se50 gates`: from a checkpoint folder and image files to a table, a picture and JSON."""
import json

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import NARROW, shake_
from matplotlib.figure import Figure
from PIL import Image
from timm.data import ImageDataset
from timm.models import save_for_hf

import timm_se50
from timm_se50.cli.main import main
from timm_se50.gates.collect import BlockGates
from timm_se50.gates.images import find_images, image_batches
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
    """Two folders, red and blue, of two images each."""
    root = tmp_path_factory.mktemp('images') / 'images'
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


def test_class_of_an_image_is_its_folder(images, monkeypatch):
    monkeypatch.chdir(images / 'red')
    found = find_images(['0.png', images])
    assert [(p.name, c) for p, c in found] == [
        ('0.png', 'red'), ('0.png', 'blue'), ('1.png', 'blue'), ('0.png', 'red'), ('1.png', 'red')]


def test_links_are_followed_as_timm_does(images, tmp_path, monkeypatch):
    (tmp_path / 'data').mkdir()
    for name in ('red', 'blue'):
        (tmp_path / 'data' / f'linked-{name}').symlink_to(images / name)
    (tmp_path / 'data' / 'no-image.png').mkdir()
    found = find_images([tmp_path / 'data'])
    reader = ImageDataset(str(tmp_path / 'data')).reader
    assert [str(path) for path, _ in found] == [str(tmp_path / 'data' / path) for path in reader.filenames()]
    assert {c for _, c in found} == set(reader.class_to_idx)
    monkeypatch.chdir(images / 'blue')
    assert find_images(['../red/0.png'])[0][1] == 'red'


def test_a_damaged_image_is_named(checkpoint, images, tmp_path):
    png = bytearray((images / 'red' / '0.png').read_bytes())
    png[37:41] = b'\xff\xff\xff\xff'  # the type of the second chunk
    (tmp_path / 'bad.png').write_bytes(png)
    (tmp_path / 'worse.png').write_bytes(b'P6\nL55 40 255\n')
    for name in ('bad', 'worse'):
        result = _run('gates', checkpoint, images, tmp_path / f'{name}.png', code=1)
        assert f'{name}.png cannot be read as an image' in result.stderr


def test_channels_that_no_image_has(tmp_path, images):
    model = timm.create_model('se_resnet50_replace', in_chans=4, num_classes=2, **NARROW)
    model = timm.create_model(f'local-dir:{timm_se50.save_checkpoint(model, tmp_path / "m")}')
    with pytest.raises(ValueError, match='takes 4 channels'):
        next(image_batches(find_images([images]), ['blue', 'red'], model, 32))


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
    block = BlockGates('se', 1.0, ('_hidden', r'$\foo$', 'c\udcff'), torch.ones(3).double(), mean, torch.zeros(3, 4))
    plot_gates([block], tmp_path / 'gates.svg', title='5 $ and $x_')
    text = (tmp_path / 'gates.svg').read_text()
    assert all(f'<!-- {name} -->' in text for name in (' _hidden', r'$\foo$', 'c?', '5 $ and $x_'))


def test_nan_is_named(images, tmp_path):
    model = timm.create_model('se_resnet50_replace', num_classes=3)
    model.layer3[2].conv2.weight.data[0, 0, 0, 0] = torch.nan
    timm_se50.save_checkpoint(model, tmp_path / 'diverged')
    result = _run('gates', tmp_path / 'diverged', images, '--size', 32, '--json', code=1)
    assert 'layer3.2.se_standard: its gates are NaN' in result.stderr


@pytest.mark.parametrize(('args', 'message'), [
    (('{images}', '{images}'), 'Config file not found: {images}'),
    (('{images}/red/0.png', '{images}'), 'is a file; expected a checkpoint folder'),
    (('resnet50.no_tag', '{images}'), 'Unknown tag (resnet50.no_tag)'),
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
    assert message.format(images=images) in line
