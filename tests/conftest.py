"""What the tests share: a plain ResNet-50 to compare with, its checkpoint, and images."""
import ctypes
import gc
import platform
from pathlib import Path

import pytest
import timm
import torch
from helpers import ROUTES, pip, settle_
from safetensors.torch import save_file

import timm_se50

# The images are small: a second thread gains nothing on a free machine and costs tenfold on a busy one.
torch.set_num_threads(1)

# Networks that hang in a circle (a traceback's frames, what torch.fx made) wait for the collector, which comes seldom
# where so many objects live for ever. Without those it is done in an instant.
gc.collect()
gc.freeze()
# glibc keeps much of what is freed, in pieces
_trim = ctypes.CDLL(None).malloc_trim if platform.libc_ver()[0] == 'glibc' else lambda pad: 0


@pytest.fixture(autouse=True)
def no_memory_is_kept():
    yield
    gc.collect()
    _trim(0)


@pytest.fixture(scope='session')
def plain_weights():
    """State dict of a plain timm ResNet-50 with 1000 classes; not to be changed."""
    torch.manual_seed(0)
    return settle_(timm.create_model('resnet50')).state_dict()


@pytest.fixture(scope='session')
def plain_file(plain_weights, tmp_path_factory):
    """The same as a safetensors file."""
    path = tmp_path_factory.mktemp('weights') / 'resnet50.safetensors'
    save_file(plain_weights, path)
    return path


@pytest.fixture
def plain(plain_weights):
    """A plain timm ResNet-50 with those weights, in eval mode; a new one for each test."""
    model = timm.create_model('resnet50')
    model.load_state_dict(plain_weights)
    return model.eval()


@pytest.fixture
def create(plain_file):
    """`create(route, **kwargs)` makes a model with the plain weights mapped, in eval mode."""
    def create(route, **kwargs):
        overlay = dict(file=str(plain_file))
        return timm.create_model(
            f'se_resnet50_{route}', pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()
    return create


@pytest.fixture(scope='session')
def images():
    """A batch of images, (2, 3, 64, 64)."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(params=ROUTES)
def route(request):
    return request.param


@pytest.fixture
def insert_(route):
    """The public function of a route."""
    return {'replace': timm_se50.replace_blocks_, 'patch': timm_se50.patch_blocks_}[route]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """The package as a wheel."""
    pytest.importorskip('hatchling', reason='builds the wheel: pip install hatchling')
    folder = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-build-isolation', '-w', folder, Path(__file__).parents[1])
    return next(folder.glob('timm_se50-*.whl'))
