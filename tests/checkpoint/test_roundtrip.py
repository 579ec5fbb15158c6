"""Nothing lies after a round trip: a copy uses its own SE, a compiled or exported model computes with SE.

Every model here has gates that are not neutral, at settings that differ, so a lost SE would show.
"""
import copy
import io
import pickle

import onnxruntime
import pytest
import timm
import torch
from helpers import NARROW, settle_, shake_

from timm_se50 import SEConfig, SEModule

BOTH_IF_WEEKLY = pytest.mark.parametrize(
    'route', ['patch', pytest.param('replace', marks=pytest.mark.weekly)], indirect=True)
# Other kernels, or the same in another order, round differently; the logits here are about 1 to 10 in size.
CLOSE = dict(rtol=1e-4, atol=1e-4)
JIT_IS_DEPRECATED = pytest.mark.filterwarnings('ignore:`torch.jit')


def trained(name='resnet50', **settings):
    torch.manual_seed(0)
    return shake_(settle_(timm.create_model(name, num_classes=10, layers=(1, 2, 1, 2), **NARROW, **settings)))


@pytest.fixture
def model(route):
    return trained(f'se_resnet50_{route}', se_stages=(2, 4), se_reduction=(4, 8))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    'deepcopy': copy.deepcopy, 'torch.save': saved,
    **{f'pickle {n}': lambda m, n=n: pickle.loads(pickle.dumps(m, n)) for n in (2, pickle.HIGHEST_PROTOCOL)}}


@pytest.mark.parametrize('way', COPIES)
def test_a_copy_uses_its_own_se(model, images, way):
    """Of the whole model, and of one stage."""
    for whole, x in ((model, images), (model.layer4, torch.ones(1, 256, 4, 4))):
        expected, twin = whole(x), COPIES[way](whole)
        assert torch.equal(twin(x), expected)
        with torch.no_grad():
            for module in [m for m in twin.modules() if isinstance(m, SEModule)]:  # none is a dead leaf
                before = twin(x)
                module.fc2.bias += 1.0
                assert not torch.equal(twin(x), before)
        assert torch.equal(whole(x), expected), 'the original moved with the copy'


@BOTH_IF_WEEKLY
@JIT_IS_DEPRECATED
def test_torchscript(model, images):
    """Script, also of a second and third model at other settings in this process, and trace."""
    for m in (model, trained(), trained('se_resnet50_patch'),
              trained('se_resnet50_replace', se_stages=(1, 4), se_position='post')):
        torch.testing.assert_close(torch.jit.script(m)(images), m(images), **CLOSE)
    traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images[:1]), model(images[:1]), **CLOSE)


def test_fx(model, images):
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(images), model(images))
    assert sum('sigmoid' in str(node.target) for node in graph.graph.nodes) == sum(
        isinstance(m, SEModule) for m in model.modules())


def test_compile_without_graph_breaks(model, images):
    """The backend that only captures: what inductor makes of the graph is torch's own business, and takes a minute."""
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), **CLOSE)


@BOTH_IF_WEEKLY
def test_export_with_a_dynamic_batch(model, images):
    program = torch.export.export(
        model, (images,), dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=64)},), strict=True)
    x = torch.cat([images, images + 1])[:3]
    torch.testing.assert_close(program.module()(x), model(x), **CLOSE)


@BOTH_IF_WEEKLY
@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::FutureWarning', 'ignore::UserWarning')
def test_onnx_with_a_dynamic_batch(model, images, tmp_path):
    path = tmp_path / 'model.onnx'
    torch.onnx.export(
        model, (images,), path, dynamo=True, input_names=['x'],
        dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=64)},), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for x in (images, torch.cat([images, images + 1])[:3]):
        output, = session.run(None, {'x': x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), **CLOSE)


@JIT_IS_DEPRECATED
def test_patched_after_a_script_of_the_plain_model(insert_, plain, images):
    """TorchScript caches types by class; the plain model compiled first must not be taken for the other."""
    expected = plain(images)
    scripted = torch.jit.script(copy.deepcopy(plain))
    model = shake_(insert_(copy.deepcopy(plain), SEConfig(stages=(3,), position='post')))
    ours = torch.jit.script(model)
    torch.testing.assert_close(scripted(images), expected, **CLOSE)
    torch.testing.assert_close(ours(images), model(images), **CLOSE)
    assert not torch.allclose(ours(images), expected, **CLOSE)
