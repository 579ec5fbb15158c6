"""memory_efficient=True under what traces, compiles or transforms a model: torch.compile gets a formula that it can
differentiate and fuse, and everything else the plain path, without being asked."""
import pytest
import timm
import torch
from helpers import shake_
from test_memory_efficient import TOLERANCE, error, step
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad
from training import saved_bytes

from timm_se50.memory_efficient import blocks as me
from timm_se50.memory_efficient.arithmetic import traced_norm_se_add_relu

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([0.0, 2.0], dtype=torch.double)  # what drop path may make of two samples
WHOLE = dict(backend='aot_eager', fullgraph=True)  # all of torch.compile, less the generated code, which takes a minute


def make(memory_efficient=True, **kwargs):
    """Of three blocks: the first has a downsample path, the second none, and the third one with a stride."""
    torch.manual_seed(1)
    model = timm.create_model('se_resnet50_patch', layers=(2, 1, 1, 1), num_classes=0,
                              memory_efficient=memory_efficient, **kwargs)
    model.layer3 = model.layer4 = torch.nn.Sequential()  # a compiler would be longer about them
    return shake_(model).train()


@pytest.fixture(autouse=True)
def no_compiled_code():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def forbidden(monkeypatch):
    """Any use of the memory-efficient functions is an error."""
    def fail(*args):
        raise AssertionError('the memory-efficient path was taken')
    monkeypatch.setattr(me, 'forward', fail)


def test_the_fixture_would_notice(forbidden):
    with pytest.raises(AssertionError, match='was taken'):
        make()(IMAGES)


def functional_gradient(model):
    def loss(parameters, buffers):
        return torch.func.functional_call(model, (parameters, buffers), IMAGES).square().sum()
    return torch.func.grad(loss)(dict(model.named_parameters()), dict(model.named_buffers()))['conv1.weight']


def tangent(model):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(model(forward_ad.make_dual(IMAGES, torch.ones_like(IMAGES)))).tangent


@pytest.mark.filterwarnings('ignore:.torch.jit.* is deprecated', 'ignore::torch.jit.TracerWarning')  # inside torch
@pytest.mark.parametrize('run', [
    lambda m: torch.jit.script(m)(IMAGES),
    lambda m: torch.jit.trace(m, IMAGES, check_trace=False)(IMAGES),
    lambda m: torch.fx.symbolic_trace(m)(IMAGES),
    lambda m: torch.export.export(m, (IMAGES,)).module()(IMAGES),
    functional_gradient,
    tangent,
], ids=['script', 'trace', 'fx', 'export', 'torch.func', 'forward mode'])
def test_what_takes_the_plain_path(run, forbidden):
    assert torch.equal(run(make()), run(make(memory_efficient=False)))


@pytest.mark.parametrize('kwargs', [
    {'drop_path_rate': 0.5},
    *(pytest.param(kwargs, marks=pytest.mark.weekly) for kwargs in ({}, {'aa_layer': timm.layers.BlurPool2d})),
], ids=str)
def test_a_compiled_step_is_that_of_the_plain_path(kwargs, monkeypatch):
    traced = []
    monkeypatch.setattr(me, 'traced_norm_se_add_relu', lambda *args: traced.append(1) or traced_norm_se_add_relu(*args))
    # compiled code draws other numbers
    monkeypatch.setattr(timm.layers.DropPath, 'forward', lambda self, x: x * KEEP.view(2, *[1] * (x.ndim - 1)))
    plain, efficient = (make(m, **kwargs).double() for m in (False, True))
    efficient.compile(**WHOLE)
    assert error(step(efficient, IMAGES), step(plain, IMAGES)) < TOLERANCE
    assert len(traced) == 3


@pytest.mark.thorough
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # inside torch
@pytest.mark.skipif(not hasattr(compiled_autograd, '_enable'), reason='an older PyTorch has it under another name')
def test_an_eager_step_whose_backward_is_compiled():
    """Compiled autograd traces the backward written by hand: whole, once, and with the same result."""
    expected = step(make(False).double(), IMAGES)
    with compiled_autograd._enable(torch.compile(**WHOLE)), torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            assert error(step(make().double(), IMAGES), expected) < TOLERANCE


@pytest.mark.thorough
def test_a_compiled_model_saves_less_than_a_compiled_resnet50():
    """As inductor divides a model into forward and backward, less the generated code."""
    counts = []
    for name, kwargs in (('resnet50', {}), ('se_resnet50_replace', {'memory_efficient': True})):
        torch._dynamo.reset()
        model = timm.create_model(name, layers=(2, 1, 1, 1), **kwargs).train()
        model.compile(backend='aot_eager_decomp_partition', fullgraph=True)
        counts.append(saved_bytes(model, lambda m: m(IMAGES)))
    plain, efficient = counts
    assert efficient < 0.9 * plain, counts


@pytest.mark.thorough
def test_autocast():
    """At most twice as far from float32 as the plain path."""
    exact = step(make(False), IMAGES)
    errors = []
    for memory_efficient in (False, True):
        model = make(memory_efficient)
        model.compile(**WHOLE)
        errors.append(error(step(model, IMAGES, autocast=True), exact))
    assert errors[1] < 2 * errors[0]


@pytest.mark.thorough
def test_another_batch_size_and_gradient_checkpointing():
    plain, efficient = make(False).double(), make().double()
    efficient.set_grad_checkpointing()
    efficient.compile(**WHOLE)
    for n in (2, 3, 4):  # compiled for 2, then for any
        images = torch.randn(n, 3, 64, 64, dtype=torch.double)
        torch.testing.assert_close(efficient(images), plain(images), rtol=1e-9, atol=1e-9)


def test_it_goes_with_eval_mode_and_back(forbidden):
    """A compiled model that is validated between epochs."""
    model = make().eval()
    model.compile(**WHOLE)
    torch.testing.assert_close(model(IMAGES), make(False).eval()(IMAGES), rtol=1e-5, atol=1e-5)
    model.train()
    with pytest.raises(Exception, match='was taken'):
        model(IMAGES)
