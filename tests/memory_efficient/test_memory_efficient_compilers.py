"""memory_efficient=True under what traces, compiles or transforms a model: torch.compile gets a formula that it can
differentiate and fuse, and everything else the plain path, without being asked."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from helpers import shake_
from torch._dynamo import compiled_autograd
from training import saved_bytes

from timm_se50.memory_efficient import blocks as me
from timm_se50.memory_efficient.arithmetic import traced_norm_se_add_relu

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([0.0, 2.0], dtype=torch.double)  # what drop path may make of two samples


def make(memory_efficient=True, **kwargs):
    """Of three blocks: the first has a downsample path, the second none, and the third one with a stride."""
    torch.manual_seed(1)
    model = timm.create_model('se_resnet50_patch', layers=(2, 1, 1, 1), num_classes=0,
                              memory_efficient=memory_efficient, **kwargs)
    model.layer3 = model.layer4 = torch.nn.Sequential()  # a compiler would be longer about them
    return shake_(model).train()


@pytest.fixture
def forbidden(monkeypatch):
    """Any use of the memory-efficient functions is an error."""
    def fail(*args):
        raise AssertionError('the memory-efficient path was taken')
    monkeypatch.setattr(me, 'forward', fail)


def test_the_fixture_would_notice(forbidden):
    with pytest.raises(AssertionError, match='was taken'):
        make()(IMAGES)


@pytest.mark.filterwarnings('ignore:.torch.jit.* is deprecated', 'ignore::torch.jit.TracerWarning')  # inside torch
@pytest.mark.parametrize('convert', ['script', 'trace'])
def test_torchscript(convert, forbidden):
    model = make()
    # trace runs the model, and so moves the running statistics
    compiled = torch.jit.script(model) if convert == 'script' else torch.jit.trace(model, IMAGES, check_trace=False)
    state = make().state_dict()
    compiled.load_state_dict(state)
    assert torch.equal(compiled(IMAGES), make(memory_efficient=False)(IMAGES))


def test_fx(forbidden):
    graph = torch.fx.symbolic_trace(make().layer1[0])
    x = torch.randn(2, 64, 16, 16)
    assert torch.equal(graph(x), make(memory_efficient=False).layer1[0](x))


@pytest.fixture
def compile_():
    """aot_eager: the whole of torch.compile, autograd too, less the generated code, which takes a minute to build."""
    torch._dynamo.reset()
    yield lambda model: torch.compile(model, backend='aot_eager', fullgraph=True)
    torch._dynamo.reset()


@pytest.mark.parametrize('kwargs', [
    {'drop_path_rate': 0.5},
    *(pytest.param(kwargs, marks=pytest.mark.weekly) for kwargs in ({}, {'aa_layer': timm.layers.BlurPool2d})),
], ids=str)
def test_a_compiled_step_is_that_of_the_plain_path(kwargs, compile_, monkeypatch):
    traced = []
    monkeypatch.setattr(me, 'traced_norm_se_add_relu', lambda *args: traced.append(1) or traced_norm_se_add_relu(*args))
    # compiled code draws other numbers
    monkeypatch.setattr(timm.layers.DropPath, 'forward', lambda self, x: x * KEEP.view(2, *[1] * (x.ndim - 1)))
    plain, efficient = (make(m, **kwargs).double() for m in (False, True))
    results = [step(plain, plain), step(efficient, compile_(efficient))]
    assert len(traced) == 3
    assert results[0].keys() == results[1].keys()
    for key, expected in results[0].items():
        torch.testing.assert_close(results[1][key], expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.thorough
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # inside torch
@pytest.mark.skipif(not hasattr(compiled_autograd, '_enable'), reason='an older PyTorch has it under another name')
def test_an_eager_step_whose_backward_is_compiled():
    """Compiled autograd traces the backward written by hand: whole, once, and with the same result."""
    torch._dynamo.reset()
    plain, efficient = make(False).double(), make().double()
    expected = step(plain, plain)
    compiler = torch.compile(backend='aot_eager', fullgraph=True)
    with compiled_autograd._enable(compiler), torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            efficient.zero_grad()
            efficient.load_state_dict(make(False).state_dict())
            found = step(efficient, efficient)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-9 * float(expected[key].abs().max()))
    torch._dynamo.reset()


def step(model, run):
    """Output, gradients and buffers after a step."""
    output = run(IMAGES.to(model.conv1.weight.dtype))
    output.sin().sum().backward()
    return {'output': output.detach()} | {k: p.grad for k, p in model.named_parameters()} | {
        k: b.double() for k, b in model.named_buffers()}


@pytest.mark.thorough
@pytest.mark.usefixtures('compile_')
def test_a_compiled_model_saves_less_than_a_compiled_resnet50():
    """As inductor divides a model into forward and backward, less the generated code."""
    counts = []
    for name, kwargs in (('resnet50', {}), ('se_resnet50_replace', {'memory_efficient': True})):
        torch._dynamo.reset()
        model = timm.create_model(name, layers=(2, 1, 1, 1), **kwargs).train()
        compiled = torch.compile(model, backend='aot_eager_decomp_partition', fullgraph=True)
        counts.append(saved_bytes(model, lambda m, run=compiled: run(IMAGES)))
    plain, efficient = counts
    assert efficient < 0.9 * plain, counts


@pytest.mark.parametrize('autocast', [
    pytest.param(torch.bfloat16, marks=pytest.mark.thorough),
    pytest.param(torch.float16, marks=pytest.mark.weekly),
], ids=str)
def test_autocast(autocast, compile_):
    """At most twice as far from float32 as the plain path."""
    model = make(False)
    exact = step(model, model)
    errors = []
    for memory_efficient in (False, True):
        model = make(memory_efficient)
        run = compile_(model)
        with torch.autocast('cpu', autocast):
            output = run(IMAGES)
        assert output.dtype == autocast
        output.float().sin().sum().backward()
        found = {'output': output.detach()} | {k: p.grad for k, p in model.named_parameters()}
        errors.append(max(((found[k] - exact[k]).norm() / (exact[k].norm() + 1e-12)).item() for k in found))
    assert errors[1] < 2 * errors[0]


@pytest.mark.thorough
def test_another_batch_size_and_gradient_checkpointing(compile_):
    plain, efficient = make(False).double(), make().double()
    efficient.set_grad_checkpointing()
    compiled = compile_(efficient)
    for n in (2, 3, 4):  # compiled for 2, then for any
        images = torch.randn(n, 3, 64, 64, dtype=torch.double)
        torch.testing.assert_close(compiled(images), plain(images), rtol=1e-9, atol=1e-9)


def test_it_goes_with_eval_mode_and_back(forbidden, compile_):
    """A compiled model that is validated between epochs."""
    model = make()
    compiled = compile_(model.eval())
    torch.testing.assert_close(compiled(IMAGES), make(False).eval()(IMAGES), rtol=1e-5, atol=1e-5)
    model.train()
    with pytest.raises(Exception, match='was taken'):
        compiled(IMAGES)


@pytest.mark.thorough
def test_for_gpus_that_are_not_here():
    """Inductor and Triton compile the end of a block, which moves hardly more bytes than the one without SE."""
    pytest.importorskip('triton')
    cases = {(80, 'float32'): 1.01, (90, 'bfloat16'): 1.10}
    worker, args = Path(__file__).with_name('gpu_compiler.py'), [str(arg) for case in cases for arg in case]
    done = subprocess.run([sys.executable, worker, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for ((_, dtype), most), line in zip(cases.items(), done.stdout.splitlines(), strict=True):
        found = json.loads(line)
        for kind in found.values():
            assert len(kind['kernels']) > 5
            assert all(size > 0 for _, size in kind['kernels'])
        ours, se, plain = (found[kind]['bytes'] for kind in ('ours', 'se', 'plain'))
        maps = 8 * 256 * 40 * 40 * (4 if dtype == 'float32' else 2)
        assert plain > 9 * maps  # statistics, output and backward; so it did count
        assert ours < most * plain
        assert 1.4 * plain < se < 1.5 * plain


def test_export(forbidden):
    exported = torch.export.export(make(), (IMAGES,)).module()
    assert torch.equal(exported(IMAGES), make(memory_efficient=False)(IMAGES))


def test_torch_func(forbidden):
    def loss(parameters, buffers, model):
        return torch.func.functional_call(model, (parameters, buffers), IMAGES).square().sum()

    models = [make(), make(memory_efficient=False)]
    found, expected = (
        torch.func.grad(loss)(dict(m.named_parameters()), dict(m.named_buffers()), m) for m in models)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated:FutureWarning')  # inside torch
def test_forward_mode(forbidden):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(IMAGES, torch.ones_like(IMAGES))
        tangents = [torch.autograd.forward_ad.unpack_dual(m(dual)).tangent for m in (make(), make(False))]
    assert torch.equal(*tangents)
