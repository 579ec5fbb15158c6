"""Nothing lies after a round trip: a copy uses its own SE, a compiled or exported model computes with SE.

Every model here has gates that are not neutral, at settings that differ, so a lost SE would show.
"""
import copy
import io
import pickle
import subprocess
import sys

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


def assert_se_is_live(model, x):
    """Each SE module's fc2 moves the logits, so none is a dead leaf that another one stands in for."""
    with torch.no_grad():
        for module in [m for m in model.modules() if isinstance(m, SEModule)]:
            before = model(x)
            module.fc2.bias += 1.0
            assert not torch.equal(model(x), before)


def test_deepcopy_uses_its_own_se(model, images):
    twin = copy.deepcopy(model)
    expected = model(images)
    assert torch.equal(twin(images), expected)
    assert_se_is_live(twin, images)
    assert torch.equal(model(images), expected), 'the original moved with the copy'


@pytest.mark.parametrize('protocol', [2, pickle.HIGHEST_PROTOCOL])
def test_pickle(model, images, protocol):
    twin = pickle.loads(pickle.dumps(model, protocol))
    assert torch.equal(twin(images), model(images))
    assert_se_is_live(twin, images)


def test_torch_save_of_the_model_and_of_one_stage(model, images):
    for whole, part in ((model, model), (model.layer4, model.layer4)):
        file = io.BytesIO()
        torch.save(part, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
        x = images if part is model else torch.ones(1, 256, 4, 4)
        assert torch.equal(twin(x), whole(x))
        assert_se_is_live(twin, x)


@BOTH_IF_WEEKLY
def test_saved_model_opens_in_another_process(model, images, tmp_path):
    torch.save(model, tmp_path / 'model.pt')
    torch.save(images, tmp_path / 'images.pt')
    code = ('import sys, torch; load = lambda n: torch.load(f"{sys.argv[1]}/{n}.pt", weights_only=False);'
            'torch.set_num_threads(1); torch.save(load("model")(load("images")), f"{sys.argv[1]}/logits.pt")')
    subprocess.run([sys.executable, '-c', code, tmp_path], check=True)
    assert torch.equal(torch.load(tmp_path / 'logits.pt'), model(images))


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
