"""What wraps a model for training keeps SE: an exponential moving average, SyncBatchNorm, one training step."""
import pytest
import timm
import torch
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn

import timm_se50

MODELS = ['se_resnet50_replace', 'se_resnet50_patch']


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return timm.create_model(request.param, num_classes=4, zero_init_last=False)


def test_ema_tracks_its_own_se(model):
    ema = ModelEmaV3(model, decay=0.75)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    own = {id(p) for p in model.parameters()}
    assert len(timm_se50.se_parameters(ema.module)) == 64  # 16 blocks, two weights and two biases each
    assert not any(id(p) in own for p in timm_se50.se_parameters(ema.module))

    with torch.no_grad():
        for p in timm_se50.se_parameters(model):
            p.add_(1.0)
    ema.update(model)
    for key, value in ema.module.named_parameters():
        moved = 0.25 if '.se_standard.' in key else 0.0  # a share of 1 - decay of the 1.0 that was added
        torch.testing.assert_close(value, before[key] + moved, rtol=0, atol=1e-6)  # float32, values below 10

    x = torch.randn(2, 3, 32, 32)
    fresh = timm.create_model(model.default_cfg['architecture'], num_classes=4).eval()
    fresh.load_state_dict(ema.module.state_dict())
    with torch.no_grad():
        assert torch.equal(ema.module.eval()(x), fresh(x))  # its forward goes through its own SE
        assert not torch.equal(ema.module(x), model.eval()(x))


@pytest.mark.parametrize('convert', [convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm])
def test_sync_batchnorm_keeps_se(model, convert):
    blocks = [m for m in model.modules() if isinstance(m, timm_se50.SEBottleneck)]
    se = timm_se50.se_parameters(model)
    keys, x = list(model.state_dict()), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for p in se:
            p.add_(0.1)  # no gate is neutral
        expected = model.eval()(x)

    converted = convert(model)
    assert [m for m in converted.modules() if isinstance(m, timm_se50.SEBottleneck)] == blocks
    assert all(p is q for p, q in zip(timm_se50.se_parameters(converted), se, strict=True))
    assert list(converted.state_dict()) == keys
    norms = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 53
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    with torch.no_grad():
        assert torch.equal(converted.eval()(x), expected)  # in eval mode it runs on a CPU too
