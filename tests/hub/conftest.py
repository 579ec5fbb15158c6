"""One loopback Hub, one client process and one pushed model for all tests of a session; each test has its own cache."""
import pytest
import timm
import torch
from hub_client import Client
from hub_helpers import SETUP
from hub_server import HubServer

from timm_se50 import save_checkpoint

TOKENS = {'hf_annwrite': ('ann', 'write'), 'hf_annread': ('ann', 'read'), 'hf_annold': ('ann', 'expired')}


@pytest.fixture(scope='session')
def session_server():
    server = HubServer(TOKENS)
    yield server
    server.close()


@pytest.fixture
def server(session_server):
    """The loopback Hub. After each test: all faults struck, and no token went to the host of the large files."""
    session_server.log.clear()
    yield session_server
    faults, session_server.faults = session_server.faults, []
    session_server.headers.clear()
    assert not [fault for fault in faults if 0 < fault.times < 100]
    assert not [entry for entry in session_server.log if entry[0] == 'cdn' and entry[3]]


@pytest.fixture(scope='session')
def local(tmp_path_factory):
    """A saved model with settings of all kinds, half as wide as usual and bfloat16: 12.3 MiB.

    More than the 10 MiB that huggingface_hub reads at a time, so that a download has something to resume.
    """
    torch.manual_seed(0)
    model = timm.create_model(
        'se_resnet50_patch.tv2_in1k', num_classes=3, in_chans=1, se_stages=(3, 4), se_reduction=(8, 32),
        se_position='identity', channels=(32, 64, 128, 256))
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data += 0.02 * (torch.rand_like(value) - 0.5)
    return save_checkpoint(
        model.bfloat16(), tmp_path_factory.mktemp('local') / 'm', label_names=['cat', 'dog', 'eel'],
        data_config={'mean': (0.25,), 'std': (0.5,)})


@pytest.fixture(scope='session')
def client(session_server, local):
    """Ann's process, with a token that may write."""
    client = Client(session_server.url, 'hf_annwrite', SETUP.format(local=local))
    yield client
    client.close()


@pytest.fixture(scope='session')
def pushed(client):
    """The model pushed to ann/model: what `push_to_hub()` returned, and the hash of its weights as `digest`."""
    return client.good("out = push(model, 'ann/model')")
