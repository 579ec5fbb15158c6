"""memory_efficient=True under what traces, compiles or transforms a model: the plain path, without being asked."""
import pytest
import timm
import torch

from timm_se50.memory_efficient import blocks as me

torch.set_num_threads(1)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def make(memory_efficient=True, train=True):
    torch.manual_seed(1)
    model = timm.create_model('se_resnet50_patch', layers=(1, 1, 1, 1), num_classes=10,
                              memory_efficient=memory_efficient)
    return model.train(train)


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


def test_compile(forbidden):
    torch._dynamo.reset()
    # aot_eager: the whole of torch.compile, autograd too, less the generated code, which takes a minute to build
    compiled = torch.compile(make(), backend='aot_eager', fullgraph=True)
    output, expected = compiled(IMAGES), make(memory_efficient=False)(IMAGES)
    output.sum().backward()
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)  # batch_norm is decomposed
    torch._dynamo.reset()


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
