"""What a Hub says of a repo, changed: the model comes as it is, or an error says whose answer that was."""
import json

import pytest
from hub_client import Client
from hub_repos import File
from hub_server import Fault, HubServer
from hypothesis import strategies as st
from mutations import COUNTS, fuzz, mutated_bytes, mutated_json, show

SETUP = """
import time
import timm_se50
time.sleep = lambda seconds: None  # before a second try
"""
PULL = "out = digest(timm_se50.pull_from_hub('ann/small', cache_dir=cache, quiet=True))"


@pytest.fixture(scope='module')
def hub(small):
    """A server with the small model, and a client of it."""
    server = HubServer({'hf_annwrite': ('ann', 'write')})
    files = {p.name: File(p.read_bytes()) for p in small.iterdir()}
    server.hub.create('small', 'ann', False, 'hf_annwrite').commit('main', files, 'add')
    client = Client(server.url, setup=SETUP)
    yield server, client
    client.close()
    server.close()


def test_what_it_says_of_a_repo(length, hub, tmp_path):
    server, client = hub
    repo = server.hub.repos['ann/small']
    files = repo.commits[repo.refs['main']]
    info = {'id': 'ann/small', 'modelId': 'ann/small', 'sha': repo.refs['main'], 'private': False, 'tags': [],
            'siblings': [f.info(p, 'rfilename') for p, f in files.items()]}
    right = client.good(PULL, cache=tmp_path / '0')
    seen = {}

    def check(content):
        # mostly one cache: what an earlier pull left there may not be trusted either
        seen[content] = None
        server.faults = [Fault('info', 'answer', times=100, body=content)]
        cache = tmp_path / str(len(seen) % 10 and 1)
        result = client.run(PULL, cache=cache)
        server.faults = []
        if result.error is None:
            return 'equal' if result.out == right else 'another model'
        named = 'ann/small' in result.message or server.url in result.message
        clear = {'OSError', 'ValueError'} & set(result.error)
        return 'refused by name' if named and clear else f'{result.error[0]}: {result.message}\n{result.log}'
    texts = st.one_of(mutated_bytes(json.dumps(info).encode()), *[mutated_json(info).map(
        lambda changed: json.dumps(changed).encode())] * 3)
    show("the Hub's JSON", length, fuzz(texts, COUNTS[length] // 3, check))
    assert {p.name for p in tmp_path.iterdir()} <= {'0', '1'}
    assert {p.name for p in (tmp_path / '1').iterdir()} <= {'models--ann--small', '.locks', 'CACHEDIR.TAG'}
