"""`timm-se50 gates`: from a checkpoint folder and image files to a table, a picture and JSON."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from helpers import NARROW, shake_
from matplotlib.figure import Figure
from PIL import Image

import timm_se50
from timm_se50.cli.main import main
from timm_se50.gates import BlockGates, find_images, image_batches, plot_gates


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """The gates of layer1.0 are 0.4, whatever the image."""
    torch.manual_seed(0)
    model = shake_(timm.create_model('se_resnet50_replace', num_classes=3, zero_init_last=False, **NARROW))
    for parameter in timm_se50.se_parameters(model):
        parameter.data.mul_(0.3)  # so that rounding is not made large by steep gates
    se = model.layer1[0].se_standard
    se.fc2.weight.data.zero_()
    se.fc2.bias.data.fill_(torch.logit(torch.tensor(0.2)) / se.logit_scale)
    return timm_se50.save_checkpoint(model, tmp_path_factory.mktemp('checkpoint') / 'model')


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
    result = CliRunner().invoke(main, ['gates', *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_table_picture_and_warning(checkpoint, images, tmp_path):
    result = _run(checkpoint, images, '--size', 32, '-o', tmp_path / 'gates.png')
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.startswith('layer')}
    assert '4 images: blue 2, red 2' in result.stdout
    assert len(rows) == 16
    assert rows['layer1.0.se_standard'] == ['128', '0.4000', '0.4000', '0.4000', '0.0000', '0.0000']
    assert float(rows['layer1.1.se_standard'][-1]) > 0
    assert 'stuck: layer1.0.se_standard.' in result.stderr
    with Image.open(tmp_path / 'gates.png') as picture:
        assert len(set(picture.convert('L').resize((200, 200)).tobytes())) > 50


def test_json(checkpoint, images):
    data = json.loads(_run(checkpoint, images / 'red', images / 'blue' / '0.png', '--size', 32, '--json').stdout)
    assert data['classes'] == {'blue': 1, 'red': 2}
    assert [len(b['class_mean']) for b in data['blocks']] == [2] * 16
    assert data['blocks'][0]['class_mean'][0] == pytest.approx([0.4] * 128)
    assert data['warnings'][0].startswith('stuck: layer1.0.se_standard.')


def test_class_of_an_image_is_its_folder(images, tmp_path, monkeypatch):
    (tmp_path / 'linked').symlink_to(images / 'red')
    monkeypatch.chdir(images / 'red')
    found = find_images(['0.png', '../blue/1.png', images, tmp_path])
    assert [(path.rpartition('/')[2], name) for path, name in found] == [
        ('0.png', 'red'), ('1.png', 'blue'), ('0.png', 'blue'), ('1.png', 'blue'), ('0.png', 'red'), ('1.png', 'red'),
        ('0.png', 'linked'), ('1.png', 'linked')]


@pytest.mark.parametrize(('channels', 'mode'), [(1, 'L'), (3, 'RGB')])
def test_images_are_as_the_model_wants_them(channels, mode, images):
    cfg = dict(input_size=(channels, 40, 40), mean=(0.5,) * channels, std=(0.25,) * channels, crop_pct=1.0)
    found, model = find_images([images]), SimpleNamespace(pretrained_cfg=cfg)
    [(batch, index)] = image_batches(found, ['blue', 'red'], model)
    assert index.tolist() == [0, 0, 1, 1]
    for image, (path, _) in zip(batch, found, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(path).convert(mode))).reshape(40, 40, channels)
        torch.testing.assert_close(image, (pixels.permute(2, 0, 1) / 255 - 0.5) / 0.25)
    [(batch, _)] = image_batches(found, ['blue', 'red'], model, size=48)
    assert batch.shape == (4, channels, 48, 48)
    with pytest.raises(ValueError, match='takes 4 channels'):
        image_batches(found, ['blue', 'red'], SimpleNamespace(pretrained_cfg={'input_size': (4, 40, 40)}))


def test_a_damaged_image_is_named(checkpoint, images, tmp_path):
    png = bytearray((images / 'red' / '0.png').read_bytes())
    png[37:41] = b'\xff\xff\xff\xff'  # the type of the second chunk
    for name, data in {'bad.png': png, 'worse.png': b'P6\nL55 40 255\n'}.items():
        (tmp_path / name).write_bytes(data)
        assert f'{name} cannot be read as an image' in _run(checkpoint, images, tmp_path / name, code=1).stderr


def test_lines_drawn_are_the_sorted_means(tmp_path, monkeypatch):
    """And class names are no markup."""
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda figure, *args, **kwargs: figures.append(figure))
    mean = torch.tensor([[0.3, 0.1, 0.2], [0.5, 0.2, 0.3]], dtype=torch.float64)
    block = BlockGates('layer1.0.se', 1.0, ('_a', '$\\b$\udcff'), torch.ones(2).double(), mean, torch.zeros(2, 3))
    plot_gates([block], tmp_path / 'gates.svg')
    [panel] = figures[0].axes
    lines = {line.get_label(): line.get_ydata().tolist() for line in panel.get_lines()}
    assert lines == {
        ' _a': pytest.approx([0.1, 0.2, 0.3]), r'\$\b\$?': pytest.approx([0.2, 0.3, 0.5]),
        'all images': pytest.approx([0.15, 0.25, 0.4])}
    assert panel.get_title() == 'layer1.0.se (3 channels)'


def test_nan_is_named(images, tmp_path):
    model = timm.create_model('se_resnet50_replace', num_classes=3, **NARROW)
    model.layer3[2].conv2.weight.data[0, 0, 0, 0] = torch.nan
    timm_se50.save_checkpoint(model, tmp_path / 'diverged')
    result = _run(tmp_path / 'diverged', images, '--size', 32, '--json', code=1)
    assert 'layer3.2.se_standard: its gates are NaN' in result.stderr


@pytest.mark.parametrize(('args', 'message'), [
    (('{images}', '{images}'), 'Config file not found: {images}'),
    (('{images}/red/0.png', '{images}'), 'is a file; expected a checkpoint folder'),
    (('resnet50.no_tag', '{images}'), 'Unknown model (resnet50.no_tag)'),
    (('{checkpoint}', '{images}/none'), 'there is no such image or folder'),
    (('{checkpoint}', '{checkpoint}'), 'Found 0 images'),
    (('{checkpoint}', '{checkpoint}/config.json'), 'config.json cannot be read as an image'),
    (('{checkpoint}', '{images}', '-o', 'gates.xyz'), 'gates.xyz: expected a name that ends in one of'),
    (('{checkpoint}', '{images}', '-o', 'none/gates.png'), 'there is no folder none'),
])
def test_bad_input_is_one_line(checkpoint, images, args, message):
    result = _run(*(a.format(checkpoint=checkpoint, images=images) for a in args), code=1)
    assert result.stdout == ''
    [line] = result.stderr.splitlines()
    assert message.format(images=images) in line
