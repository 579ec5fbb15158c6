"""What wraps a model for training keeps SE: an exponential moving average, SyncBatchNorm."""
import pytest
import timm
import torch
from helpers import NARROW, shake_
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn

import timm_se50


@pytest.fixture
def model(route):
    return shake_(timm.create_model(f'se_resnet50_{route}', zero_init_last=False, **NARROW)).eval()


@torch.no_grad()
def test_ema_tracks_and_uses_its_own_se(model, images):
    ema, before = ModelEmaV3(model, decay=0.75), [p.clone() for p in timm_se50.se_parameters(model)]
    expected = model(images)
    for p in timm_se50.se_parameters(model):
        p.add_(1.0)
    assert torch.equal(ema.module(images), expected)
    ema.update(model)
    for now, then in zip(timm_se50.se_parameters(ema.module), before, strict=True):
        torch.testing.assert_close(now, then + 0.25, rtol=0, atol=1e-6)  # a share of 1 - decay
    assert not torch.equal(ema.module(images), expected)


@torch.no_grad()
@pytest.mark.parametrize('convert', [convert_sync_batchnorm, nn.SyncBatchNorm.convert_sync_batchnorm])
def test_sync_batchnorm_keeps_se(model, images, convert):
    keys, expected = list(model.state_dict()), model(images)
    converted = convert(model)
    assert sum(isinstance(m, timm_se50.SEBottleneck) for m in converted.modules()) == 16
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) == 53
    assert list(converted.state_dict()) == keys
    assert torch.equal(converted.eval()(images), expected)  # in eval mode it runs on a CPU too
