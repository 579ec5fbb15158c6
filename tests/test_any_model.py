"""SE into whatever holds a ResNet: torchvision's classifiers, detectors and segmentation networks, a user's module."""
import copy
import io
import pickle

import networks
import pytest
import timm
import torch
from helpers import INSERT, ROUTES, changed, shake_
from networks import assert_equal, losses, predict

import timm_se50
from timm_se50 import SEBasicBlock, SEBottleneck, SEModule, se_parameters, set_memory_efficient
from timm_se50.cli.info import describe
from timm_se50.gates import collect_gates

NAMES = [
    'resnet18', 'resnet50', 'siamese', 'fasterrcnn_resnet50_fpn', 'maskrcnn, frozen', 'retinanet_resnet50_fpn',
    'deeplabv3_resnet50']
THOROUGH = ['fasterrcnn_resnet50_fpn_v2', 'maskrcnn_resnet50_fpn_v2', 'retinanet_resnet50_fpn_v2']
WEEKLY = [
    'maskrcnn_resnet50_fpn', 'keypointrcnn_resnet50_fpn', 'fcn_resnet50', 'resnet34', 'resnet101', 'resnet152',
    'resnext50_32x4d', 'resnext101_32x8d', 'resnext101_64x4d', 'wide_resnet50_2', 'wide_resnet101_2',
    'deeplabv3_resnet101', 'fcn_resnet101']
ECOSYSTEM = ['smp.Unet, resnet18', 'smp.Unet, tu-resnet50', 'DETR']


class Case:
    """A network without SE, and what it computes.

    By either route it becomes the same modules, as the first test says; the others take the routes by turns.
    """

    def __init__(self, name):
        self.plain = networks.make(name)
        self.predicted, self.losses = predict(self.plain), losses(copy.deepcopy(self.plain))
        self.state = copy.deepcopy(self.plain.state_dict())
        self.insert_ = INSERT[ROUTES[len(name) % 2]]


@pytest.fixture(scope='module', params=[
    *NAMES, *(pytest.param(name, marks=pytest.mark.thorough) for name in THOROUGH),
    *(pytest.param(name, marks=pytest.mark.weekly) for name in WEEKLY),
    *(pytest.param(name, marks=pytest.mark.ecosystem) for name in ECOSYSTEM)])
def case(request):
    if request.param in ECOSYSTEM:
        for library in ('segmentation_models_pytorch', 'transformers'):
            pytest.importorskip(library, reason="pip install 'timm-se50[ecosystem]'")
    return Case(request.param)


@pytest.fixture
def model(case):
    return case.insert_(copy.deepcopy(case.plain))


def blocks(model):
    return [m for m in model.modules() if isinstance(m, (SEBottleneck, SEBasicBlock))]


def test_nothing_is_touched_and_the_function_is_the_same(case, route):
    """Boxes, scores, masks, maps; losses and statistics."""
    model = copy.deepcopy(case.plain)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    modules = dict(model.named_modules())
    INSERT[route](model)
    assert len(blocks(model)) == len(se_parameters(model)) / 4 > 0
    assert not {'Bottleneck', 'BasicBlock'} & {type(m).__name__ for m in model.modules()}, 'a block kept another name'
    assert all(model.get_submodule(n) is m or (route == 'replace' and isinstance(model.get_submodule(n), (
        SEBottleneck, SEBasicBlock))) for n, m in modules.items())
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(now[name] is tensor for name, tensor in tensors.items())
    assert {id(now[name]) for name in now.keys() - tensors.keys()} == set(map(id, se_parameters(model)))
    assert not set(changed(model, case.state)) & case.state.keys()
    assert_equal(predict(model), case.predicted)
    assert_equal(losses(model), case.losses)


def test_every_gate_learns_and_all_weights_load(case, model):
    """A step on targets; the trained weights into a new one, then the plain ones: strict, and mapped by themselves.

    Also where the model's own keys begin with what a wrapper puts before them (DETR).
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sum(losses(model)).backward()
    assert all(m.fc2.weight.grad.any() for m in model.modules() if isinstance(m, SEModule))
    optimizer.step()
    trained = shake_(model).state_dict()
    expected = predict(model)

    other = case.insert_(copy.deepcopy(case.plain))
    for weights, computed in ((trained, expected), (case.state, case.predicted)):
        other.load_state_dict(weights)
        assert_equal(predict(other), computed)
        mapped = timm_se50.map_resnet_weights(weights, model)
        shake_(other).load_state_dict(mapped)
        assert_equal(predict(other), computed)


def test_copies(case, model):
    """deepcopy, pickle, and torch.save of the whole; each is a network of its own."""
    expected = predict(shake_(model))
    assert not all(map(torch.equal, expected, case.predicted))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for copied in copies:
        assert_equal(predict(copied), expected)


def test_inference_form(case, model):
    """It computes the same up to rounding. A detector's choices may turn on that, so its features are compared."""
    part = getattr(shake_(model), 'backbone', model).eval()
    fast = timm.models.reparameterize_model(part)
    if 'Detr' not in type(case.plain).__name__:  # whose norms are of a class of its own, and stay
        assert not blocks(fast) or isinstance(blocks(fast)[0].bn1, torch.nn.Identity)
    assert len(describe(fast, networks.SIZE)['blocks']) >= len(blocks(part))  # timm may part one of two names
    with torch.no_grad():
        found, expected = (networks.tensors(m(networks.images())) for m in (fast, part))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_memory_efficient_training(model):
    """Gradients are the same up to rounding."""
    if not any(isinstance(b, SEBottleneck) for b in blocks(model)):
        pytest.skip('it has no Bottleneck')
    part = getattr(shake_(model), 'backbone', model).train().double()
    efficient, grads = copy.deepcopy(part), []
    set_memory_efficient(efficient)
    for m in (part, efficient):
        torch.manual_seed(0)
        sum(t.square().mean() for t in networks.tensors(m(networks.images().double()))).backward()
        grads.append([p.grad for p in m.parameters() if p.grad is not None])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(a.abs().max()))


def test_gates_and_info(model):
    gates = collect_gates(model.eval(), [(networks.images(), torch.tensor([0, 1]))], ['cat', 'dog'])
    names = [n for n, m in model.named_modules() if isinstance(m, SEModule)]
    assert [g.name for g in gates] == names
    assert all(g.mean.shape[0] == 2 and (g.mean == 1).all() for g in gates)
    info = describe(model, networks.SIZE)
    assert [b['block'] for b in info['blocks']] == [n.rpartition('.')[0] for n in names]
    assert info['se_parameters'] == sum(p.numel() for p in se_parameters(model))
    assert all(b['flops'] > 0 and b['hidden'] * 16 == b['channels'] for b in info['blocks'])
    assert 'an SE-ResNe' in info['recognised'] or 'an SE-Wide' in info['recognised']


@pytest.mark.filterwarnings('ignore:`torch.jit', 'ignore:RCNN always returns', 'ignore:RetinaNet always returns',
                            "ignore:'aux_classifier' was found")
def test_torchscript(model):
    if 'Detr' in type(model).__name__:
        pytest.skip('transformers: DETR is not scriptable')
    scripted = torch.jit.script(shake_(model).eval())
    x = list(networks.images()) if networks.is_detector(model) else networks.images()
    with torch.no_grad():
        found = scripted(x)
    if networks.is_detector(model):
        found = found[1]  # losses come first
    assert_equal(networks.tensors(found), predict(model))
