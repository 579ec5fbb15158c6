"""The inference form of a model goes where a model goes: compilers, exporters, feature extraction, files."""
import copy
import pickle

import pytest
import timm
import torch
from helpers import shake_
from timm.utils import reparameterize_model
from torch.export import Dim

from timm_se50.inference import InferenceBottleneck
from timm_se50.squeeze_excite import POSITIONS

# Of the largest output: float32 rounding of a network of 53 convolutions, computed in another order.
FLOAT32 = 5e-6
SIZES = ({0: Dim.DYNAMIC, 2: Dim.AUTO, 3: Dim.AUTO},)


@pytest.fixture
def fused(create):
    return reparameterize_model(shake_(create('replace')))


@pytest.fixture
def other_images():
    """Of another number and size than `images`: a graph recorded with those has to take these as well."""
    return torch.randn(3, 3, 96, 64, generator=torch.Generator().manual_seed(4))


def check(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=FLOAT32 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated:FutureWarning')
@pytest.mark.parametrize('position', POSITIONS)
def test_script(create, images, other_images, position):
    # in float64, where both take the same convolutions
    fused = reparameterize_model(shake_(create('replace', se_position=position))).double()
    scripted = torch.jit.script(fused)
    for x in (images, other_images, images):
        assert torch.equal(scripted(x.double()), fused(x.double()))


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.torch.jit.trace:FutureWarning')
@pytest.mark.parametrize('convert', [
    torch.jit.trace,
    lambda m, x: torch.export.export(m, (x,), dynamic_shapes=SIZES).module(),
    lambda m, x: torch.compile(m, fullgraph=True, backend='eager', dynamic=True),
    lambda m, x: torch.fx.symbolic_trace(m),
    lambda m, x: pickle.loads(pickle.dumps(copy.deepcopy(m))),
], ids=['trace', 'export', 'compile', 'fx', 'copy'])
def test_converted(fused, images, other_images, convert):
    torch._dynamo.reset()
    converted = convert(fused, images)
    for x in (images, other_images):
        check(converted(x), fused(x))


@torch.no_grad()
def test_onnx(fused, images, other_images, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    path = tmp_path / 'model.onnx'
    torch.onnx.export(fused, (images,), path, dynamo=True, verbose=False, dynamic_shapes=SIZES)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    out, = session.run(None, {session.get_inputs()[0].name: other_images.numpy()})
    check(torch.from_numpy(out), fused(other_images))


@torch.no_grad()
def test_state_dict(create, fused, images):
    other = reparameterize_model(create('patch'))
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(images), fused(images))


@torch.no_grad()
@pytest.mark.parametrize('feature_cls', ['list', 'dict', 'hook', 'getter'])
def test_features(create, images, feature_cls):
    model = shake_(create('patch', features_only=True, feature_cls=feature_cls))
    fused = reparameterize_model(model)
    assert sum(isinstance(m, InferenceBottleneck) for m in fused.modules()) == 16
    expected, actual = model(images), fused(images)
    for features, like in zip(*(list(f.values()) if isinstance(f, dict) else f for f in (actual, expected))):
        check(features, like)


@torch.no_grad()
def test_fx_features_of_a_fused_model(fused, images):
    extractor = timm.models.create_feature_extractor(fused, {'layer4': 'last'})
    check(extractor(images)['last'], fused.forward_features(images))
