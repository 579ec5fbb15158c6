"""One loopback Hub, one client process and one pushed model for all tests of a session; each test has its own cache."""
import pytest
import timm
import torch
from hub_client import Client
from hub_server import HubServer

from timm_se50 import save_checkpoint

TOKENS = {
    'hf_annwrite': ('ann', 'write'), 'hf_annread': ('ann', 'read'), 'hf_annold': ('ann', 'expired'),
    'hf_bobwrite': ('bob', 'write')}


@pytest.fixture(scope='session')
def session_server():
    server = HubServer(TOKENS)
    yield server
    server.close()


@pytest.fixture
def server(session_server):
    session_server.log.clear()
    yield session_server
    assert not [f for f in session_server.faults if f.times and f.times < 100], 'a fault that never struck'
    session_server.faults.clear()


@pytest.fixture(scope='session')
def client(session_server):
    client = Client(session_server.url, 'hf_annwrite')
    yield client
    client.close()


@pytest.fixture(scope='session')
def local(tmp_path_factory):
    """A saved model with settings of all kinds, half as large as usual, since its weights are bfloat16."""
    torch.manual_seed(0)
    model = timm.create_model(
        'se_resnet50_patch.tv2_in1k', num_classes=3, in_chans=1, se_stages=(3, 4), se_reduction=(8, 32),
        se_position='identity')
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point():
            value.data += 0.02 * torch.rand_like(value)
    return save_checkpoint(
        model.bfloat16(), tmp_path_factory.mktemp('local') / 'm', label_names=['cat', 'dog', 'eel'],
        data_config={'mean': (0.25,), 'std': (0.5,)})


@pytest.fixture(scope='session')
def pushed(client, local):
    """That model pushed to ann/model: what `push_to_hub()` returned, and the hash of the weights as `digest`."""
    return client.good(PUSH, local=local, repo='ann/model', options={})


PUSH = """
import dataclasses
model = timm.create_model('local-dir:' + local, pretrained=True).bfloat16()
out = dataclasses.asdict(timm_se50.push_to_hub(model, repo, **options)) | {'digest': digest(model)}
"""
PULL = """
out = digest(timm_se50.pull_from_hub(repo, cache_dir=cache, **options))
"""


@pytest.fixture
def pull(client, pushed, tmp_path):
    """Pull ann/model into this test's cache; whatever comes of it, there are no wrong weights and no half files."""
    def pull(repo='ann/model', client=client, cache=tmp_path / 'cache', **options):
        result = client.run(PULL, repo=repo, cache=cache, options=options)
        assert result.error is not None or result.out == pushed['digest'], result.log
        assert not list(cache.rglob('*.incomplete'))
        return result
    return pull
