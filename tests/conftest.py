"""What the tests share: a plain ResNet-50 to compare with, its checkpoint, and images.

It is narrower than the real one, with the same blocks, keys and strides. The same in its real width goes by
names that end in 50, for what turns on its size.
"""
import copy
import ctypes
import functools
import gc
import itertools
import os
import platform
from pathlib import Path

import pytest
import timm
import torch
from helpers import INSERT, NARROW, ROUTES, pip, settle_
from safetensors.torch import save_file

# The images are small: a second thread gains nothing on a free machine and costs tenfold on a busy one. So it is in the
# processes that tests start.
torch.set_num_threads(1)
os.environ['OMP_NUM_THREADS'] = '1'

# glibc keeps much of what is freed, in pieces
_trim = ctypes.CDLL(None).malloc_trim if platform.libc_ver()[0] == 'glibc' else lambda pad: 0
_tests = itertools.count(1)


def pytest_collection_modifyitems(config, items):
    """Tests with one of these marks are run if `-m` names it, and else left out."""
    left_out = {mark for mark in ('thorough', 'weekly', 'fuzz') if mark not in config.option.markexpr}
    config.hook.pytest_deselected(items=[i for i in items if left_out & {m.name for m in i.iter_markers()}])
    items[:] = [i for i in items if not left_out & {m.name for m in i.iter_markers()}]


@pytest.fixture(autouse=True, scope='module')
def only_what_is_new_is_collected():
    """What there is before a module's tests, libraries above all, stays: the collector need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_memory_is_kept():
    """Networks that hang in a circle (a traceback's frames, what torch.fx made) else wait long for the collector.

    Not after each test: what is given back to the system has to be had again, an eighth of the suite's time.
    """
    yield
    if next(_tests) % 8 == 0:
        gc.collect()
        _trim(0)


@functools.cache
def _trained(**settings):
    torch.manual_seed(0)
    return settle_(timm.create_model('resnet50', **settings))


def _file(weights, folder):
    save_file(weights, folder / 'resnet50.safetensors')
    return folder / 'resnet50.safetensors'


def _creator(file, settings):
    def create(route, **kwargs):
        overlay = dict(file=str(file))
        return timm.create_model(
            f'se_resnet50_{route}', pretrained=True, pretrained_cfg_overlay=overlay, **settings | kwargs).eval()
    return create


@pytest.fixture(scope='session')
def plain_weights():
    """State dict of a plain timm ResNet-50 with 1000 classes; not to be changed."""
    return _trained(**NARROW).state_dict()


@pytest.fixture(scope='session')
def plain_file(plain_weights, tmp_path_factory):
    """The same as a safetensors file."""
    return _file(plain_weights, tmp_path_factory.mktemp('weights'))


@pytest.fixture
def plain():
    """A plain timm ResNet-50 with those weights, in eval mode; a new one for each test."""
    return copy.deepcopy(_trained(**NARROW))


@pytest.fixture
def create(plain_file):
    """`create(route, **kwargs)` makes a model with the plain weights mapped, in eval mode."""
    return _creator(plain_file, NARROW)


@pytest.fixture(scope='session')
def plain50_weights():
    return _trained().state_dict()


@pytest.fixture(scope='session')
def plain50_file(plain50_weights, tmp_path_factory):
    return _file(plain50_weights, tmp_path_factory.mktemp('weights'))


@pytest.fixture
def plain50():
    return copy.deepcopy(_trained())


@pytest.fixture
def create50(plain50_file):
    return _creator(plain50_file, {})


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
    return INSERT[route]


@pytest.fixture(scope='session')
def wheel(tmp_path_factory):
    """The package as a wheel."""
    pytest.importorskip('hatchling', reason='builds the wheel: pip install hatchling')
    folder = tmp_path_factory.mktemp('wheel')
    pip('wheel', '--no-build-isolation', '-w', folder, Path(__file__).parents[1])
    return next(folder.glob('timm_se50-*.whl'))
