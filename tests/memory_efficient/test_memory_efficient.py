"""memory_efficient=True: the same training with fewer bytes saved, and the plain path where it does not apply."""
import copy
import pickle
from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations
from training import saved_bytes

import timm_se50
from timm_se50.memory_efficient import blocks as me

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TOLERANCE = 1e-9  # float64: sums in another order, through 16 convolutions and norms over as few as 16 numbers


def make(name='se_resnet50_replace', **kwargs):
    """A model with a block a stage, in training mode; shaken, so that every block has a residual branch that counts."""
    torch.manual_seed(1)
    model = timm.create_model(name, **{'layers': (1, 1, 1, 1), 'num_classes': 10, **kwargs})
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p), alpha=0.3)
    return model.train()


def pair(**kwargs):
    """The same model without and with memory_efficient."""
    return make(**kwargs), make(**kwargs, memory_efficient=True)


def step(model, images=IMAGES, autocast=False):
    """Output, gradients and buffers after a step; the same random numbers each time."""
    torch.manual_seed(2)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        output = model(images.to(next(model.parameters()).dtype))
    if output.requires_grad:
        output.float().sin().sum().backward()
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    return {'output': output.detach()} | gradients | {k: b.clone() for k, b in model.named_buffers()}


def error(found, expected):
    """The largest relative error of any tensor, by its norm."""
    assert found.keys() == expected.keys()
    return max(((found[k] - expected[k]).double().norm() / (expected[k].double().norm() + 1e-12)).item()
               for k in expected)


def saved(model):
    return saved_bytes(model, lambda m: m(IMAGES.to(next(m.parameters()).dtype)))


SETTINGS = [
    {}, {'drop_path_rate': 0.5}, {'drop_block_rate': 0.2}, {'aa_layer': timm.layers.BlurPool2d},
    {'stem_type': 'deep', 'avg_down': True}, {'output_stride': 8}, {'cardinality': 2, 'base_width': 32},
]


@pytest.mark.parametrize(('kwargs', 'layout'), [
    *((kwargs, torch.contiguous_format) for kwargs in SETTINGS), ({}, torch.channels_last),
    *(pytest.param(kwargs, torch.channels_last, marks=pytest.mark.thorough) for kwargs in SETTINGS[1:]),
], ids=str)
def test_a_step_is_that_of_the_plain_path(kwargs, layout):
    plain, efficient = (m.to(torch.float64, memory_format=layout) for m in pair(**kwargs))
    images = IMAGES.contiguous(memory_format=layout)
    assert error(step(efficient, images), step(plain, images)) < TOLERANCE
    assert saved(efficient) < 0.95 * saved(plain)


def test_convolutions_of_another_kind():
    plain, efficient = pair()
    for model in (plain, efficient):
        for conv in (model.layer2[0].conv2, model.layer4[0].conv3):  # of the norm behind it the mean alone tells
            conv.bias = nn.Parameter(torch.linspace(-1, 1, conv.out_channels), requires_grad=False)
        weight = model.layer3[0].se_standard.fc2.weight
        weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    assert error(step(efficient.double()), step(plain.double())) < TOLERANCE


PARTS = {'conv1': nn.Sequential, 'conv2': nn.Sequential, 'conv3': nn.Sequential, 'bn1': nn.Module.eval,
         'bn2': nn.Module.eval, 'act1': lambda act: nn.GELU(), 'act2': lambda act: nn.GELU()}


@pytest.mark.parametrize('part', PARTS)
def test_a_part_of_another_kind(part):
    """The end of the block still saves less."""
    plain, efficient = (m.double() for m in pair())
    for model in (plain, efficient):
        setattr(model.layer1[0], part, PARTS[part](getattr(model.layer1[0], part)))
    assert error(step(efficient), step(plain)) < TOLERANCE
    x = torch.randn(4, 64, 8, 8).double()
    assert saved_bytes(efficient.layer1, lambda block: block(x)) < saved_bytes(plain.layer1, lambda block: block(x))


def test_it_is_off_unless_asked_for_and_can_be_switched_on_a_live_model():
    model = timm_se50.replace_blocks_(timm.create_model('resnet50', layers=(1, 1, 1, 1))).train()
    before = saved(model)
    timm_se50.set_memory_efficient(model)
    assert saved(model) < before
    assert saved(copy.deepcopy(model)) == saved(pickle.loads(pickle.dumps(model))) == saved(model)
    timm_se50.set_memory_efficient(model, False)
    assert saved(model) == before


def test_a_model_without_the_block_is_refused():
    with pytest.raises(ValueError, match=r'The ResNet has no SEBottleneck block; .*replace_blocks_'):
        timm_se50.set_memory_efficient(timm.create_model('resnet18'))
    with pytest.raises(ValueError, match=r'The DenseNet has no SEBottleneck block'):  # whose layers have that name
        timm_se50.set_memory_efficient(torchvision.models.densenet121(weights=None))


def test_bytes_saved_are_at_most_three_quarters_of_a_plain_resnet50():
    images = torch.randn(8, 3, 160, 160)
    plain, se, efficient = (
        saved_bytes(timm.create_model(name, **kwargs).train(), lambda m: m(images)) for name, kwargs in (
            ('resnet50', {}), ('seresnet50', {}), ('se_resnet50_replace', {'memory_efficient': True})))
    assert se > 1.25 * plain
    assert 0.73 * plain < efficient < 0.75 * plain  # less by making more again, which takes time


class OwnNorm(nn.BatchNorm2d):
    pass


def each(kind, change):
    """Change every module of a type, or put what `change` returns in its place."""
    def apply(model):
        for name, module in list(model.named_modules()):
            if type(module) is kind and isinstance(new := change(module), nn.Module):
                model.set_submodule(name, new)
    return apply


def parametrize(se):
    parametrizations.weight_norm(se.fc1)


def each_norm(kind=nn.BatchNorm2d, **kwargs):
    return each(nn.BatchNorm2d, lambda norm: kind(norm.num_features, **kwargs))


FALLBACKS = {
    'eval': ({}, lambda m: m.eval()),
    'frozen norms': ({}, each(nn.BatchNorm2d, lambda n: n.eval())),
    'cumulative average': ({}, each_norm(momentum=None)),
    'no running statistics': ({}, each_norm(track_running_stats=False)),
    'no affine': ({}, each_norm(affine=False)),
    'a subclass of BatchNorm': ({}, each_norm(OwnNorm)),
    'SE without bias': ({}, each(timm_se50.SEModule, lambda s: s.fc2.register_parameter('bias', None))),
    'SE in groups': ({}, each(timm_se50.SEModule, lambda s: setattr(s, 'fc1', nn.Conv2d(
        s.fc1.in_channels, s.fc1.out_channels, 1, groups=2)))),
    'SE with GELU': ({}, each(timm_se50.SEModule, lambda s: setattr(s, 'act', nn.GELU()))),
    'GroupNorm': ({'norm_layer': 'groupnorm'}, None),
    'GELU': ({'act_layer': 'gelu'}, None),
    **{position: ({'se_position': position}, None) for position in ('pre', 'post', 'identity')},
    'hooks on the last norm': ({}, lambda m: [
        b[0].bn3.register_forward_hook(lambda *args: None) for b in (m.layer1, m.layer2, m.layer3, m.layer4)]),
    'parametrized SE': ({}, each(timm_se50.SEModule, parametrize)),
    'a forward of its own': ({}, each(timm_se50.SEModule, lambda s: setattr(s, 'forward', s.forward))),
}


@pytest.mark.parametrize('name', FALLBACKS)
def test_where_it_does_not_apply_the_plain_path_runs_bit_for_bit(name):
    kwargs, change = FALLBACKS[name]
    models = pair(**kwargs)
    for model in models:
        torch.manual_seed(3)
        if change is not None:
            change(model)
    plain, efficient = (step(m) for m in models)
    assert plain.keys() == efficient.keys()
    assert all(torch.equal(plain[k], efficient[k]) for k in plain)
    assert saved(models[0]) == saved(models[1])


def test_hooks_run_on_every_submodule():
    """Each as often as in the plain path, also those on the identities that stand where nothing is wanted."""
    counts = []
    for model in pair():
        count = Counter()
        for name, module in model.named_modules():
            # a hook on these, or on SE, has the plain path run
            if not isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)) and 'se_standard' not in name:
                module.register_forward_hook(lambda *args, name=name, count=count: count.update([name]))
        step(model)
        counts.append(count)
    assert counts[0] == counts[1]
    assert counts[1]['layer2.0.aa'] == counts[1]['layer2.0.drop_block'] == 1


def test_on_meta():
    with torch.device('meta'):
        assert make(memory_efficient=True)(torch.empty(2, 3, 64, 64)).shape == (2, 10)


def test_sync_batch_norm_a_single_image_and_hooks_for_all_modules_fall_back():
    model = make(memory_efficient=True)
    assert me.is_applicable(model.layer1[0], IMAGES)
    assert not me.is_applicable(model.layer1[0], IMAGES[:1])
    assert not me.is_applicable(model.layer1[0], IMAGES[0])
    assert not me.is_applicable(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)).layer1[0], IMAGES)
    hook = register_module_forward_hook(lambda *args: None)
    applicable = me.is_applicable(model.layer1[0], IMAGES)
    hook.remove()
    assert not applicable


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_gradient_checkpointing(use_reentrant, monkeypatch):
    monkeypatch.setattr(timm.layers.config, '_USE_REENTRANT_CKPT', use_reentrant)
    plain, efficient = (m.double() for m in pair())
    for model in (plain, efficient):
        model.set_grad_checkpointing()
    images = IMAGES.double().requires_grad_()  # the reentrant form needs an input that asks for a gradient
    assert error(step(efficient, images), step(plain, images)) < TOLERANCE


def test_partly_frozen():
    plain, efficient = (m.double() for m in pair())
    for model in (plain, efficient):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in ('.se_standard.', 'layer2', 'bn2', 'fc')))
    assert error(step(efficient), step(plain)) < TOLERANCE


def test_autocast_is_at_most_twice_as_far_from_float32_as_the_plain_path():
    exact = step(make())
    plain, efficient = (step(m, autocast=True) for m in pair())
    assert plain['output'].dtype == efficient['output'].dtype == torch.bfloat16
    assert all(plain[k].dtype == efficient[k].dtype for k in plain)
    assert error(efficient, exact) < 2 * error(plain, exact)


def test_autocast_saves_no_copy_of_a_blocks_convolutions():
    for model, dtype in zip(pair(), (torch.bfloat16, torch.float32), strict=True):
        blocks = [m for m in model.modules() if isinstance(m, timm_se50.SEBottleneck)]
        shapes = [m.weight.shape for block in blocks for m in block.modules() if type(m) is nn.Conv2d]
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t), lambda t: t)
        with hooks, torch.autocast('cpu', torch.bfloat16):
            model(IMAGES)
        assert len(shapes) == 4 * 5  # in a block three, one for its shortcut, and SE's first
        assert [t.dtype for t in saved if t.shape in shapes] == 20 * [dtype]


@pytest.mark.parametrize(('block', 'channels'), [(0, 64), (1, 256)])
def test_autocast_of_an_input_in_full_precision(block, channels):
    """Convolutions then take it in half, as autocast has it, and it is added to what they make of it."""
    x = torch.randn(4, channels, 16, 16)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = [model.layer1[block](x.requires_grad_()) for model in pair(layers=(2, 1, 1, 1))]
    (expected, found), (e, f) = outputs, (torch.autograd.grad(y.float().square().sum(), x)[0] for y in outputs)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert error({'x': found}, {'x': expected}) < 0.01
    assert error({'x': f}, {'x': e}) < 0.02


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_have_the_strides_of_their_parameters(layout, autocast):
    """Of others DDP warns, and copies them."""
    model = make(memory_efficient=True).to(memory_format=layout)
    step(model, IMAGES.contiguous(memory_format=layout), autocast)
    assert all(p.grad.stride() == p.stride() for p in model.parameters())


def test_ddp(tmp_path):
    expected = step(make(memory_efficient=True))
    torch.distributed.init_process_group('gloo', f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        found = step(nn.parallel.DistributedDataParallel(make(memory_efficient=True)))
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(found[k if k == 'output' else f'module.{k}'], expected[k]) for k in expected)
