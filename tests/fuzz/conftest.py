"""One small model, saved, that all mutations start from."""
import pytest
import timm
import torch
from helpers import shake_
from mutations import SMALL

from timm_se50 import save_checkpoint


@pytest.fixture(scope='session')
def small(tmp_path_factory):
    """Its folder."""
    torch.manual_seed(0)
    model = shake_(timm.create_model('se_resnet50_patch', **SMALL))
    return save_checkpoint(model, tmp_path_factory.mktemp('fuzz') / 'm')


@pytest.fixture(params=[pytest.param('short'), pytest.param('long', marks=pytest.mark.fuzz)])
def length(request):
    return request.param
