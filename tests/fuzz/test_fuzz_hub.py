"""What a Hub says of a repo, changed: the model comes as it is, or an error says whose answer that was."""
import json

from helpers import changed
from hub_api import Repo, sibling
from hub_server import Fault, HubServer
from hypothesis import strategies as st
from mutations import COUNTS, fuzz, mutated_bytes, mutated_json
from safetensors.torch import load_file

from timm_se50 import pull_from_hub


def test_what_it_says_of_a_repo(length, small, tmp_path, monkeypatch):
    server, weights = HubServer(), load_file(small / 'model.safetensors')
    server.attract(monkeypatch, tmp_path)
    repo = server.repos['ann/small'] = Repo()
    sha = repo.commit({p.name: p.read_bytes() for p in small.iterdir()})
    info = {'id': 'ann/small', 'modelId': 'ann/small', 'sha': sha, 'private': False, 'tags': [],
            'siblings': [sibling(*file) for file in repo.files.items()]}
    seen = {}

    def check(content):
        # mostly one cache: what an earlier pull left there may not be trusted either
        seen[content] = None
        server.faults = [Fault('info', 'answer', -1, body=content)]
        try:
            model = pull_from_hub('ann/small', cache_dir=tmp_path / str(len(seen) % 10 and 1), quiet=True)
        except (OSError, ValueError) as e:
            return 'refused by name' if 'ann/small' in str(e) or server.url in str(e) else repr(e)
        return 'another model' if changed(model, weights) else 'equal'
    texts = st.one_of(mutated_bytes(json.dumps(info).encode()), *[mutated_json(info).map(
        lambda changed: json.dumps(changed).encode())] * 3)
    fuzz("the Hub's JSON", texts, COUNTS[length] // 3, check)
    server.close()
    assert {p.name for p in tmp_path.iterdir()} <= {'0', '1'}
    assert {p.name for p in (tmp_path / '1').iterdir()} <= {'models--ann--small', '.locks', 'CACHEDIR.TAG'}
