"""One loopback Hub, one client process and one pushed model for all tests of a session; each test has its own cache."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import timm
import torch
from hub_client import Client
from hub_server import HubServer

from timm_se50 import save_checkpoint

TOKENS = {
    'hf_annwrite': ('ann', 'write'), 'hf_annread': ('ann', 'read'), 'hf_annold': ('ann', 'expired'),
    'hf_bobwrite': ('bob', 'write')}
# `model` is there in each fork, and `push()` and `pull()` return what JSON can hold
SETUP = """
import dataclasses
import timm_se50

model = timm.create_model('local-dir:{local}', pretrained=True).bfloat16()

def push(model, repo, **options):
    return dataclasses.asdict(timm_se50.push_to_hub(model, repo, **options)) | {{'digest': digest(model)}}

def pull(repo, cache, **options):
    return digest(timm_se50.pull_from_hub(repo, cache_dir=cache, **options))

def file_digest(folder):
    with open(f'{{folder}}/model.safetensors', 'rb') as f:
        return hashlib.file_digest(f, 'sha256').hexdigest()
"""


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
    assert not [fault for fault in faults if 0 < fault.times < 100]
    assert not [entry for entry in session_server.log if entry[0] == 'cdn' and entry[3]]


@pytest.fixture(scope='session')
def local(tmp_path_factory):
    """A saved model with settings of all kinds, half as large as usual, since its weights are bfloat16."""
    torch.manual_seed(0)
    model = timm.create_model(
        'se_resnet50_patch.tv2_in1k', num_classes=3, in_chans=1, se_stages=(3, 4), se_reduction=(8, 32),
        se_position='identity')
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


def run_all(run, cases):
    """`run(case)` for all cases, some at once, since most of their time is spent waiting; the results by case."""
    with ThreadPoolExecutor(5) as pool:
        return dict(zip(cases, pool.map(run, cases)))


def in_repo(repo, faults):
    """The same faults for the requests to one repo only."""
    return [replace(fault, path=rf'{repo}\b.*{fault.path}') for fault in faults]


def requests(server, *routes):
    """How many requests there were to each route."""
    return tuple(sum(entry[1] == route for entry in server.log) for route in routes)
