"""Who may do what: an error that says which it is and what to do; and the token stays where it belongs."""
import re

import pytest
from hub_client import Client
from hub_helpers import SETUP

VERBOSE = 'huggingface_hub.utils.logging.set_verbosity_debug()\n'
PULL = VERBOSE + 'out = pull(repo, cache, token=token)'
PUSH = VERBOSE + 'model.fc.bias.data += 60\nout = push(model, repo, token=token, **options)'
TOKENS = ('hf_annwrite', 'hf_annread', 'hf_annold', 'hf_bobwrite', 'hf_nobody')


@pytest.fixture(scope='module', autouse=True)
def repos(session_server, pushed):
    """Beside ann/model a private and a gated repo."""
    for name, kind in (('secret', 'private'), ('gated', 'gated')):
        repo = session_server.hub.create(name, 'ann', kind == 'private', 'hf_annwrite')
        repo.gated = kind == 'gated'
        repo.commit('main', session_server.hub.repos['ann/model'].commits[pushed['commit']], 'add')


PULLS = {
    'private, no token': ('ann/secret', False, 'FileNotFoundError', r"no model repo 'ann/secret' .* private.* log in"),
    'private, another account': (
        'ann/secret', 'hf_bobwrite', 'FileNotFoundError', r'private.* check that the account of this token has access'),
    'gated, no token': ('ann/gated', False, 'PermissionError', r'ann/gated is gated: ask for access at .* log in'),
    'gated, another account': (
        'ann/gated', 'hf_bobwrite', 'PermissionError', r'gated: ask for access at \S+ with the account of this token'),
    'expired token': ('ann/model', 'hf_annold', 'PermissionError', r'refused \(User Access Token "mine" is expired\)'),
    'wrong token': ('ann/model', 'hf_nobody', 'PermissionError', r'wrong, revoked or expired. Make a new one at'),
    'typo': ('ann/modle', 'hf_annwrite', 'FileNotFoundError', r"no model repo 'ann/modle'.* Check the spelling"),
    'no repo id': ('ann/model/x', 'hf_annwrite', 'ValueError', r"'ann/model/x' is no repo id; expected 'user/name'"),
    'wrong revision': (
        'ann/model@v9', 'hf_annwrite', 'FileNotFoundError', r"ann/model has no revision 'v9'; expected .*'main'"),
    'wrong commit': (f'ann/model@{"0" * 40}', False, 'FileNotFoundError', r"no revision '0{40}'"),
}
PUSHES = {
    'read-only token': ('ann/model', 'hf_annread', {}, 'PermissionError', r'may not write to ann/model.*role "write"'),
    'read-only token, new repo': ('ann/fresh', 'hf_annread', {}, 'PermissionError', r'may not write to ann/fresh'),
    'another account': ('ann/model', 'hf_bobwrite', {}, 'PermissionError', r'create_pr=True'),
    'no token at all': ('ann/model', False, {}, 'PermissionError', r'needs an access token.*hf auth login'),
    'expired token': ('ann/model', 'hf_annold', {}, 'PermissionError', r'"mine" is expired.*Make a new one'),
    'a branch of a repo to be': (
        'ann/fresh', 'hf_annwrite', {'revision': 'x'}, 'FileNotFoundError', r"no ann/fresh yet, and so no revision"),
    'wrong branch': ('ann/model', 'hf_annwrite', {'revision': 'x'}, 'FileNotFoundError', r"no revision 'x'; expected"),
}


def check(result, kind, message):
    assert result.error is not None
    assert kind in result.error, result.log
    assert re.search(message, result.message), result.message
    for token in TOKENS:
        assert token not in result.log + result.message


@pytest.mark.parametrize('case', PULLS)
def test_pull_refused(case, client, server, tmp_path):
    repo, token, kind, message = PULLS[case]
    check(client.run(PULL, repo=repo, token=token, cache=tmp_path), kind, message)
    assert not list(tmp_path.rglob('model.safetensors'))


@pytest.mark.parametrize('case', PUSHES)
def test_push_refused(case, client, server):
    repo, token, options, kind, message = PUSHES[case]
    before = dict(server.hub.repos['ann/model'].refs)
    check(client.run(PUSH, repo=repo, token=token, options=options), kind, message)
    assert server.hub.repos['ann/model'].refs == before
    assert 'ann/fresh' not in server.hub.repos


def test_the_owner_may(client, server, pushed, tmp_path):
    for repo in ('ann/secret', 'ann/gated'):
        assert client.good(PULL, repo=repo, token='hf_annread', cache=tmp_path) == pushed['digest']
    assert any(entry[0] == 'cdn' for entry in server.log)  # where, as after each test, no token was seen


def test_no_token_where_none_is_needed(client, server, pushed, tmp_path):
    code = "del os.environ['HF_TOKEN']\nout = pull('ann/model', cache)"
    assert client.good(code, cache=tmp_path) == pushed['digest']
    assert {entry[3] for entry in server.log} == {None}
    result = client.run("del os.environ['HF_TOKEN']\npush(model, 'ann/model')")
    check(result, 'PermissionError', 'needs an access token')


def test_the_hub_out_of_reach(client, server, pushed, tmp_path):
    elsewhere = "huggingface_hub.constants.ENDPOINT = 'http://127.0.0.1:9'\n"
    result = client.run(elsewhere + "pull('ann/model', cache)", cache=tmp_path)
    check(result, 'ConnectionError', r'connection to http://127.0.0.1:9 failed.*Check the network')
    assert server.log == []


def test_offline(client, server, pushed, local, tmp_path):
    client.good("pull('ann/model', cache)", cache=tmp_path)
    server.log.clear()
    offline = Client(server.url, 'hf_annwrite', SETUP.format(local=local), HF_HUB_OFFLINE='1')
    pull = 'out = pull(repo, cache)'
    try:
        assert offline.good(pull, repo='ann/model', cache=tmp_path) == pushed['digest']
        pinned = f'ann/model@{pushed["commit"]}'
        assert offline.good(pull, repo=pinned, cache=tmp_path) == pushed['digest']
        assert offline.good("out = digest(timm.create_model('hf-hub:ann/model', pretrained=True, cache_dir=cache))",
                            cache=tmp_path) == pushed['digest']
        for repo in ('ann/gated', 'ann/model@v9'):
            result = offline.run(pull, repo=repo, cache=tmp_path)
            check(result, 'FileNotFoundError', r"HF_HUB_OFFLINE is set and ann/\w+ at '\w+' is not in the cache")
        check(offline.run("push(model, 'ann/model')"), 'ConnectionError', 'HF_HUB_OFFLINE is set')
        weights = next(tmp_path.rglob('snapshots/*/model.safetensors'))
        content = bytearray(weights.read_bytes())
        content[-9] ^= 1
        weights.resolve().write_bytes(content)
        result = offline.run(pull, repo='ann/model', cache=tmp_path)
        check(result, 'OSError', 'model.safetensors of ann/model cannot be verified offline: the cache names it')
        assert weights.read_bytes() == content
    finally:
        offline.close()
    assert server.log == []
    assert client.good(pull, repo='ann/model', cache=tmp_path) == pushed['digest']
