"""A Hub on the loopback with one small model; each test has a cache of its own."""
import pytest
import timm
import torch
from hub_api import Repo
from hub_server import HubServer

from timm_se50 import save_checkpoint


@pytest.fixture(scope='session')
def local(tmp_path_factory):
    """A saved model with settings of all kinds, small and in bfloat16."""
    torch.manual_seed(0)
    model = timm.create_model(
        'se_resnet50_patch.tv2_in1k', num_classes=3, in_chans=1, se_stages=(3, 4), se_reduction=(8, 32),
        se_position='identity', layers=(1, 1, 2, 1), channels=(16, 16, 16, 16))
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data += 0.02 * (torch.rand_like(value) - 0.5)
    return save_checkpoint(
        model.bfloat16(), tmp_path_factory.mktemp('local') / 'm', label_names=['cat', 'dog', 'eel'],
        data_config={'mean': (0.25,), 'std': (0.5,)})


@pytest.fixture
def model(local):
    """That model."""
    return timm.create_model(f'local-dir:{local}', pretrained=True).bfloat16()


@pytest.fixture(scope='session')
def weights(local):
    """Its weights as they are loaded."""
    return timm.create_model(f'local-dir:{local}', pretrained=True).state_dict()


@pytest.fixture(scope='session')
def session_server():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'cache'


@pytest.fixture
def server(session_server, local, cache, monkeypatch):
    """The Hub, which holds the model as ann/model; the token is Ann's.

    After each test: all faults struck, and no token went to the host of the large files.
    """
    session_server.reset()
    session_server.repos['ann/model'] = Repo()
    session_server.repos['ann/model'].commit({p.name: p.read_bytes() for p in local.iterdir()})
    session_server.attract(monkeypatch, cache)
    yield session_server
    assert not [fault for fault in session_server.faults if fault.times > 0]
    assert not [entry for entry in session_server.log if entry[0] == 'localhost' and entry[2]]
