"""The demo's parts; CI runs the whole of it, as the README has it, and it fails where logits are not equal."""
import sys

import pytest
import timm
import torch
from helpers import NARROW

from timm_se50.cli.demo import _source, report, run_demo
from timm_se50.cli.digits import accuracy, load_digits, predict, train


def test_the_digits_are_real_and_held_out():
    digits = load_digits(0)
    assert digits['x_train'].shape == (1347, 3, 32, 32)
    assert digits['x_test'].shape == (450, 3, 32, 32)
    train_images, test_images = ({x.numpy().tobytes() for x in digits[k][:, 0]} for k in ('x_train', 'x_test'))
    assert not train_images & test_images
    assert torch.bincount(digits['y_test']).min() >= 43


def test_training_learns_and_its_curve_is_the_accuracy():
    """On a narrow ResNet-18, which is a small part of the work."""
    digits = load_digits(0)
    torch.manual_seed(0)
    model = timm.create_model('resnet18', num_classes=10, **NARROW)
    curve = train(model, digits, 3, 0.05, 0, 'test')
    assert curve[0][1] < 0.3
    assert curve[-1] == (63, accuracy(predict(model, digits['x_test']), digits['y_test']))
    assert curve[-1][1] > 0.5
    assert train(model, digits, 0, 0.05, 0, 'test') == [(0, curve[-1][1])]


def test_the_report_says_so_when_logits_differ():
    results = dict(source='random weights', equal=False, loaded_equal=False, curves={'ours': [(0, 0.5), (9, 0.75)]})
    text = report(results, 'out')
    for part in ('NOT EQUAL', 'DIFFERENT', '50.0%', '75.0%'):
        assert part in text


def test_bad_input(tmp_path):
    message = "weights='no-such-file.pth': expected a file, or a tag of timm's resnet50: a1_"
    with pytest.raises(ValueError, match=message):
        run_demo(tmp_path, weights='no-such-file.pth')


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model('resnet34').state_dict(), tmp_path / 'weights.pth')
    with pytest.raises(RuntimeError, match='look like a ResNet-34'):
        run_demo(tmp_path, weights=str(tmp_path / 'weights.pth'))


def test_weights_of_a_wrapped_network_are_loaded(tmp_path):
    """What was checked is what is loaded, although timm knows no such keys."""
    weights = timm.create_model('resnet50').state_dict()
    torch.save({f'model.{k}': v for k, v in weights.items()}, tmp_path / 'weights.pth')
    model = timm.create_model('resnet50', num_classes=10, **_source(str(tmp_path / 'weights.pth')))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items() if not k.startswith('fc.'))


@pytest.mark.parametrize('missing', ['matplotlib', 'sklearn'])
def test_what_is_not_installed_is_said_before_the_work(missing, tmp_path, monkeypatch):
    for name in [missing, *(name for name in sys.modules if name.startswith(f'{missing}.'))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=rf'{missing}.*pip install'):
        run_demo(tmp_path / 'demo')
    assert not list(tmp_path.iterdir())
