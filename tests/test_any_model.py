"""SE into whatever holds a ResNet: torchvision's classifiers, detectors and segmentation networks, a user's module."""
import copy
import io
import pickle

import networks
import pytest
import torch
from helpers import INSERT, ROUTES, changed, shake_
from networks import DEEP_NETWORKS, ECOSYSTEM_NETWORKS, MORE_NETWORKS, NETWORKS, assert_equal, losses, predict

import timm_se50
from timm_se50 import SEBasicBlock, SEBottleneck, SEModule, se_parameters, set_memory_efficient


class Case:
    """A network without SE, with it by both routes, and what the first computes.

    By either route it becomes the same modules, as two tests say; the others take the routes by turns.
    """

    def __init__(self, name, routes=ROUTES):
        self.plain = networks.make(name)
        self.predicted, self.losses = predict(self.plain), losses(copy.deepcopy(self.plain))
        self.state = copy.deepcopy(self.plain.state_dict())
        self.models = {route: INSERT[route](copy.deepcopy(self.plain)) for route in routes}
        self.route = routes[len(name) % len(routes)]


CASES = [
    *NETWORKS,
    *(pytest.param(name, marks=pytest.mark.thorough) for name in MORE_NETWORKS if name.endswith('_v2')),
    *(pytest.param(name, marks=pytest.mark.weekly) for name in MORE_NETWORKS if not name.endswith('_v2')),
    *(pytest.param(name, marks=pytest.mark.ecosystem) for name in ECOSYSTEM_NETWORKS)]
DEEP_CASES = [pytest.param(name, marks=pytest.mark.weekly) for name in DEEP_NETWORKS]


@pytest.fixture(scope='module', params=CASES)
def case(request):
    if request.param in ECOSYSTEM_NETWORKS:
        for library in ('segmentation_models_pytorch', 'transformers'):
            pytest.importorskip(library, reason="pip install 'timm-se50[ecosystem]'")
    return Case(request.param)


@pytest.fixture
def model(case):
    return copy.deepcopy(case.models[case.route])


def blocks(model):
    return [m for m in model.modules() if isinstance(m, (SEBottleneck, SEBasicBlock))]


def test_nothing_is_touched_and_the_function_is_the_same(case, route):
    """Boxes, scores, masks, maps; losses and statistics."""
    model = copy.deepcopy(case.models[route])
    assert len(blocks(model)) == len(se_parameters(model)) / 4 > 0
    added = {f'{n}.{k}' for n, m in model.named_modules() if isinstance(m, SEModule) for k in m.state_dict()}
    if case.plain.__class__ is not networks.Siamese:  # whose blocks go by two names
        assert model.state_dict().keys() == case.state.keys() | added
    assert not set(changed(model, case.state)) & case.state.keys()
    assert_equal(predict(model), case.predicted)
    assert_equal(losses(model), case.losses)


def test_the_routes_are_one_network_and_the_tensors_those_that_were(route, case):
    plain = copy.deepcopy(case.plain)
    tensors, kept = dict(plain.named_parameters()) | dict(plain.named_buffers()), dict(plain.named_modules())
    INSERT[route](plain)
    now = dict(plain.named_parameters()) | dict(plain.named_buffers())
    assert all(now[name] is tensor for name, tensor in tensors.items())
    modules = dict(plain.named_modules())
    assert all((modules[n] is m) == (route == 'patch' or not isinstance(modules[n], (SEBottleneck, SEBasicBlock)))
               for n, m in kept.items())
    assert [list(m.state_dict()) for m in case.models.values()] == [list(plain.state_dict())] * 2
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in case.models.values())))
    assert len({tuple((n, type(m)) for n, m in model.named_modules()) for model in case.models.values()}) == 1


@pytest.mark.parametrize('name', DEEP_CASES)
def test_deep_networks(name):
    """The first of the tests above and the one below, on more networks of the same classes."""
    case = Case(name, (ROUTES[len(name) % 2],))
    test_nothing_is_touched_and_the_function_is_the_same(case, case.route)
    test_every_gate_learns_and_both_weights_load(case, copy.deepcopy(case.models[case.route]))


def test_every_gate_learns_and_both_weights_load(case, model):
    """A step on targets, then the trained weights into a new one, then the plain ones: strict, without a hook."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    sum(losses(model)).backward()
    assert all(m.fc2.weight.grad.any() for m in model.modules() if isinstance(m, SEModule))
    optimizer.step()
    trained = shake_(model).state_dict()
    expected = predict(model)

    other = copy.deepcopy(case.models[case.route])
    other.load_state_dict(trained)
    assert_equal(predict(other), expected)
    other.load_state_dict(case.state)
    assert_equal(predict(other), case.predicted)


def test_a_files_weights_are_mapped_by_themselves_too(case, model):
    """`map_resnet_weights`, also where the model's own keys begin with what a wrapper puts before them (DETR)."""
    shake_(model)
    model.load_state_dict(timm_se50.map_resnet_weights(case.state, model))
    assert_equal(predict(model), case.predicted)
    own = shake_(model).state_dict()
    mapped = timm_se50.map_resnet_weights(own, model)
    assert own.keys() == mapped.keys()
    assert all(torch.equal(v, mapped[k]) for k, v in own.items())


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
    import timm
    part = getattr(shake_(model), 'backbone', model).eval()
    fast = timm.models.reparameterize_model(part)
    if 'Detr' not in type(case.plain).__name__:  # whose norms are of a class of its own, and stay
        assert not blocks(fast) or isinstance(blocks(fast)[0].bn1, torch.nn.Identity)
    with torch.no_grad():
        found, expected = (networks.tensors(m(networks.images())) for m in (fast, part))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_memory_efficient_training(case, model):
    """Losses and gradients are the same up to rounding, and equal where norms are frozen."""
    if not any(isinstance(b, SEBottleneck) for b in blocks(model)):
        pytest.skip('it has no Bottleneck')
    part = getattr(shake_(model), 'backbone', model).train().double()
    efficient = copy.deepcopy(part)
    set_memory_efficient(efficient)
    saved, grads = [], []
    for m in (part, efficient):
        total = 0

        def pack(t):
            nonlocal total
            total += t.numel() * t.element_size()
            return t.detach()  # the tensor itself would be a circle that nothing collects

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = sum(t.square().mean() for t in networks.tensors(m(networks.images().double())))
        loss.backward()
        saved.append(total)
        grads.append([p.grad for p in m.parameters() if p.grad is not None])
    frozen = any(type(m).__name__.endswith('FrozenBatchNorm2d') for m in part.modules())
    assert saved[1] == saved[0] if frozen else saved[1] < saved[0]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * float(a.abs().max()))


def test_gates_and_info(case, model):
    from timm_se50.cli.info import describe, format_description
    from timm_se50.gates import collect_gates
    gates = collect_gates(model.eval(), [(networks.images(), torch.tensor([0, 1]))], ['cat', 'dog'])
    names = [n for n, m in model.named_modules() if isinstance(m, SEModule)]
    assert [g.name for g in gates] == names
    assert all(g.mean.shape[0] == 2 and (g.mean == 1).all() for g in gates)

    info = describe(model, networks.SIZE)
    assert [b['block'] for b in info['blocks']] == [n.rpartition('.')[0] for n in names]
    assert info['se_parameters'] == sum(p.numel() for p in se_parameters(model))
    assert all(b['flops'] > 0 and b['hidden'] * 16 == b['channels'] for b in info['blocks'])
    assert 'an SE-ResNe' in info['recognised'] or 'an SE-Wide' in info['recognised']
    rows = format_description(info).splitlines()[-len(names):]
    assert len({len(row.split('  standard')[0]) for row in rows}) == 1, 'the columns of the table are not straight'


def test_info_before_and_after_and_in_the_inference_form():
    """The same blocks, whatever they are."""
    import timm
    import torchvision

    from timm_se50.cli.info import describe, format_description
    plain = torchvision.models.resnet50(weights=None)
    infos = [describe(plain, 32)]
    timm_se50.patch_blocks_(plain)
    infos += [describe(plain, 32), describe(timm.models.reparameterize_model(plain.eval()), 32)]
    names, classes = ([[b[key] for b in info['blocks']] for info in infos] for key in ('block', 'class'))
    assert len(names[0]) == 16
    assert names[0] == names[1] == names[2]
    assert [set(c) for c in classes] == [{'Bottleneck'}, {'SEBottleneck'}, {'InferenceBottleneck'}]
    assert [sum('hidden' in b for b in info['blocks']) for info in infos] == [0, 16, 0]
    assert all(len(format_description(info).splitlines()) == 5 + 16 for info in infos)


@pytest.mark.filterwarnings('ignore:`torch.jit', 'ignore:RCNN always returns', 'ignore:RetinaNet always returns',
                            "ignore:'aux_classifier' was found")
def test_torchscript(case, model):
    if 'Detr' in type(model).__name__:
        pytest.skip('transformers: DETR is not scriptable')
    scripted = torch.jit.script(shake_(model).eval())
    x = list(networks.images()) if networks.is_detector(model) else networks.images()
    with torch.no_grad():
        found = scripted(x)
    if networks.is_detector(model):
        found = found[1]  # losses come first
    assert_equal(networks.tensors(found), predict(model))
