"""Gates that start neutral move, with each of timm's optimizers and in a loop of one's own; what holds them back."""
import copy
import pickle
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers import shake_
from sklearn.datasets import load_digits
from studies.train import gate_spread
from timm.layers import SEModule as TimmSE
from timm.optim import create_optimizer_v2
from timm.utils import dispatch_clip_grad
from torch.nn.utils import parametrizations, prune
from torchvision.models import resnet50 as torchvision_resnet50

import timm_se50

SMALL = dict(layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), num_classes=10)
STEPS, BATCH, SIZE, DECAY = 30, 8, 24, 0.05
# A learning rate each, of its own scale (LARS': the bare rate of what is not decayed, at 0.5 gates run to their ends)
MAIN = {'sgd': 0.05, 'adamw': 1e-3, 'lamb': 5e-3, 'lars': 0.1}
OTHERS = {
    'adabelief': 1e-3, 'adadelta': 1.0, 'adafactor': 1e-3, 'adafactorbv': 1e-3, 'adagrad': 0.01, 'adahessian': 0.1,
    'adam': 1e-3, 'adamax': 1e-3, 'adamp': 1e-3, 'adamuon': 3e-3, 'adan': 1e-3, 'adopt': 1e-3, 'laprop': 1e-3,
    'larc': 0.5, 'lion': 3e-4, 'madgrad': 1e-3, 'mars': 1e-3, 'muon': 0.02, 'nadam': 1e-3, 'novograd': 0.01,
    'rmsprop': 1e-3, 'rmsproptf': 0.01, 'sgdp': 0.05}


@pytest.fixture(scope='module')
def images():
    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x = F.interpolate((x - x.mean()) / x.std(), size=SIZE, mode='bilinear').expand(-1, 3, -1, -1).contiguous()
    return x, torch.from_numpy(digits.target)


def _train(model, optimizer, images, steps=STEPS, seed=1, clip=None):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        index = torch.randint(len(images[0]), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(images[0][index]), images[1][index])
        loss.backward(create_graph=getattr(optimizer, 'is_second_order', False))
        if clip is not None:
            dispatch_clip_grad(clip, 0.01, mode='agc')
        optimizer.step()
    assert torch.isfinite(loss)
    return model


@pytest.fixture(scope='module')
def trained(images):
    """A trained plain network."""
    torch.manual_seed(0)
    model = timm.create_model('resnet50', **SMALL)
    return _train(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), images, steps=100).state_dict()


@pytest.fixture
def model(trained):
    torch.manual_seed(0)
    model = timm.create_model('se_resnet50_replace', **SMALL)
    model.load_state_dict(trained)
    return model


def _timms(trained):
    """timm's own SE-ResNet-50 of the same weights, its SE drawn at random, of the same width."""
    torch.manual_seed(3)
    se = partial(TimmSE, rd_divisor=1)
    model = timm.create_model('seresnet50', block_args=dict(attn_layer=se), **SMALL)
    model.load_state_dict(trained, strict=False)
    return model


@pytest.mark.parametrize(('name', 'lr', 'share'), [
    *((name, lr, 0.5) for name, lr in MAIN.items()),
    *(pytest.param(name, lr, 0.2, marks=pytest.mark.weekly) for name, lr in OTHERS.items())])
@pytest.mark.filterwarnings('ignore:Using backward\\(\\) with create_graph=True:UserWarning')
def test_gates_spread_as_far_as_a_share_of_timms(name, lr, share, model, trained, images):
    """After 30 steps, as a share of the gate's range: the deviation of a gate between images, averaged over gates."""
    spreads = []
    for network in (model, _timms(trained)):
        optimizer = create_optimizer_v2(network, name, lr, DECAY)
        spreads.append(gate_spread(_train(network, optimizer, images), images[0][:256]))
    print(f'{name}: {spreads[0] / spreads[1]:.2f}')
    assert spreads[0] >= share * spreads[1]


def _decay(optimizer, model):
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}


@pytest.mark.parametrize('make', [
    lambda: timm.create_model('se_resnet50_patch', se_position='pre', **SMALL),
    lambda: timm_se50.replace_blocks_(timm.create_model('resnet18')),
    lambda: timm_se50.patch_blocks_(torchvision_resnet50()),
    lambda: pickle.loads(pickle.dumps(timm.create_model('se_resnet50_replace', **SMALL))),
], ids=['created', 'live', 'torchvision', 'pickled'])
@pytest.mark.parametrize('how', ['timm', 'timm, layer decay', 'ours'])
def test_fc2_alone_of_all_matrices_is_not_decayed(make, how):
    model = make()
    if how == 'ours':
        holder = torch.nn.ModuleDict({'net': model})  # of which timm would ask nothing
        optimizer = torch.optim.SGD(timm_se50.param_groups(holder, 0.1, DECAY))
    else:
        layer_decay = {'layer_decay': 0.9} if 'layer' in how and hasattr(model, 'group_matcher') else {}
        optimizer = create_optimizer_v2(model, 'lamb', 1e-3, DECAY, **layer_decay)
    expected = {n: 0.0 if p.ndim == 1 or n.endswith('.fc2.weight') else DECAY for n, p in model.named_parameters()}
    assert _decay(optimizer, model) == expected


def test_what_the_model_itself_names_is_not_decayed_either():
    model = timm.create_model('resnet18')
    model.no_weight_decay = lambda: {'fc.weight'}
    timm_se50.replace_blocks_(model)
    for groups in (model, timm_se50.param_groups(model, 0.1, DECAY)):
        decay = _decay(create_optimizer_v2(groups, 'sgd', 0.1, DECAY), model)
        assert decay['fc.weight'] == decay['layer1.0.se_standard.fc2.weight'] == 0
        assert decay['layer1.0.se_standard.fc1.weight'] == decay['conv1.weight'] == DECAY


def test_param_groups_give_se_a_rate_of_its_own(model):
    model.conv1.requires_grad_(False)
    groups = timm_se50.param_groups(model, 0.1, DECAY, se_lr=0.5)
    rates = {p: group['lr'] for group in groups for p in group['params']}
    se = set(timm_se50.se_parameters(model))
    assert rates == {p: 0.5 if p in se else 0.1 for p in model.parameters() if p.requires_grad}
    assert sum(len(g['params']) for g in groups) == len(rates)
    assert {g['lr'] for g in timm_se50.param_groups(model, 0.1)} == {0.1}
    torch.optim.AdamW(groups)
    with pytest.raises(ValueError, match=r'The ResNet has no SE module; put SE in first, with replace_blocks_'):
        timm_se50.param_groups(timm.create_model('resnet18'), 0.1)


# docs/train.md, "What holds a zero weight back": a row each


def _fc2(model):
    return [m.fc2 for m in model.modules() if isinstance(m, timm_se50.SEModule)]


def _travel(model):
    return sum(fc2.weight.abs().sum().item() for fc2 in _fc2(model))


def test_adaptive_clipping(model, trained, images):
    """Holds fc2 where it is; with SE left out of it, as docs/train.md has it, gates move."""
    held, free = model, copy.deepcopy(model)
    se = set(timm_se50.se_parameters(free))
    for network in (held, free):
        clipped = [p for p in list(network.parameters())[:-2] if p not in se]  # the head is none of timm's, either
        _train(network, create_optimizer_v2(network, 'sgd', 0.02, 1e-4), images, clip=clipped)
    assert 0 < _travel(held) < 0.01 * _travel(free)


def _share_moved(model, make, images):
    """How far 30 steps move a zero fc2, as a share of how far they move one as timm draws it."""
    travels, networks = [], [copy.deepcopy(model), copy.deepcopy(model)]
    torch.manual_seed(0)
    for fc2 in _fc2(networks[1]):
        torch.nn.init.kaiming_normal_(fc2.weight, mode='fan_out', nonlinearity='relu')
    for network in networks:
        start = [fc2.weight.clone() for fc2 in _fc2(network)]
        _train(network, make(network.parameters()), images)
        travels.append(sum((fc2.weight - x).abs().sum().item() for fc2, x in zip(_fc2(network), start)))
    print(f'{travels[0] / travels[1]:.4f}')
    return travels[0] / travels[1]


@pytest.mark.ecosystem
@pytest.mark.parametrize(('name', 'most', 'cure', 'least'), [
    ('Adalite', 0.01, {'ratio_min': 1.0}, 0.5), ('AdaFactor', 0.05, {'scale_parameter': False}, 0.8),
    ('SRMM', 0.02, None, None)])
def test_optimizers_of_pytorch_optimizer(name, most, cure, least, model, images):
    make = getattr(pytest.importorskip('pytorch_optimizer'), name)
    assert _share_moved(model, make, images) < most
    if cure:
        assert _share_moved(model, partial(make, **cure), images) > least


@pytest.mark.parametrize('parametrize', [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_norms_of_a_zero_weight(parametrize, model, images):
    """Not a number at first; with any other fc2 they are what they are elsewhere."""
    early, x = copy.deepcopy(model).eval(), images[0][:2]
    parametrize(_fc2(early)[0])
    assert early(x).isnan().any()

    expected = shake_(model).eval()(x)
    parametrize(_fc2(model)[0])
    assert model.eval()(x).isfinite().all()
    if parametrize is parametrizations.weight_norm:
        # up to the rounding of a norm, and of the product with it
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('spared', [False, True])
def test_global_pruning(spared, model, images):
    """Takes all of a zero fc2, and with it SE; with fc2 left out, as docs/train.md has it, it does not."""
    convolutions = {m for m in model.modules() if isinstance(m, torch.nn.Conv2d)}
    if spared:
        convolutions -= {m.fc2 for m in model.modules() if isinstance(m, timm_se50.SEModule)}
    prune.global_unstructured([(m, 'weight') for m in convolutions], prune.L1Unstructured, amount=0.3)
    _train(model, torch.optim.SGD(model.parameters(), 0.02), images, steps=3)
    assert (_travel(model) > 0) == spared


def test_an_se_module_that_is_parametrized_is_not_drawn_anew(model):
    parametrized, *others = _fc2(model)
    parametrizations.weight_norm(parametrized)
    before = [p.clone() for p in parametrized.parametrizations.weight.parameters()]
    model.init_weights()
    assert all(map(torch.equal, parametrized.parametrizations.weight.parameters(), before))
    assert not any(fc2.weight.any() for fc2 in others)
