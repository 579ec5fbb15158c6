"""Who may do what: the client's error with what it lacks; offline; and the token stays where it belongs."""
import re

import pytest
from hub_client import Client
from hub_helpers import SETUP

VERBOSE = 'huggingface_hub.utils.logging.set_verbosity_debug()\n'
PULL = VERBOSE + 'out = pull(repo, cache, token=token)'
PUSH = VERBOSE + 'model.fc.bias.data += 60\nout = push(model, repo, token=token, **options)'


@pytest.fixture(scope='module', autouse=True)
def repos(session_server, pushed):
    """Beside ann/model a private and a gated repo."""
    for name, kind in (('secret', 'private'), ('gated', 'gated')):
        repo = session_server.hub.create(name, 'ann', kind == 'private', 'hf_annwrite')
        repo.gated = kind == 'gated'
        repo.commit('main', session_server.hub.repos['ann/model'].commits[pushed['commit']], 'add')


PULLS = {
    'private': ('ann/secret', False, 'OSError', r'Repository Not Found .*/ann/secret/.*; log in with `hf auth login`'),
    'gated': ('ann/gated', False, 'OSError', r'Cannot access gated repo .*\(config.json of ann/gated; log in'),
    'expired token': ('ann/model', 'hf_annold', 'OSError', r'"mine" is expired.*\(ann/model; log in with'),
    'wrong token': ('ann/model', 'hf_nobody', 'OSError', r'Invalid credentials.*\(ann/model; log in with'),
    'typo': ('ann/modle', 'hf_annwrite', 'OSError', r'Repository Not Found .*/ann/modle/.*correct `repo_id`'),
    'no repo id': ('ann/model/x', 'hf_annwrite', 'ValueError', r"'namespace/repo_name': 'ann/model/x'"),
    'wrong revision': ('ann/model@v9', 'hf_annwrite', 'OSError', r'Revision Not Found .*/ann/model/revision/v9'),
}
PUSHES = {
    'read-only token': ('ann/model', 'hf_annread', {}, 'OSError', r'you need write access.*\(ann/model'),
    'read-only token, new repo': ('ann/fresh', 'hf_annread', {}, 'OSError', r"You don't have the rights.*ann/fresh"),
    'no token': ('ann/model', False, {}, 'PermissionError', r'needs an access token.*hf auth login'),
    'wrong branch': ('ann/model', 'hf_annwrite', {'revision': 'x'}, 'OSError', r'Revision Not Found .*/revision/x'),
}


def check(result, kind, message):
    assert result.error is not None
    assert kind in result.error, result.log
    assert re.search(message, result.message, re.DOTALL), result.message
    for token in ('hf_annwrite', 'hf_annread', 'hf_annold', 'hf_nobody'):
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
    check(result, 'ConnectionError', r'ann/model: no .* came from http://127.0.0.1:9 .*Check the network')
    assert server.log == []


def test_offline(client, server, pushed, local, tmp_path):
    client.good("pull('ann/model', cache)", cache=tmp_path)
    server.log.clear()
    offline = Client(server.url, 'hf_annwrite', SETUP.format(local=local), HF_HUB_OFFLINE='1')
    pull = 'out = pull(repo, cache)'
    try:
        for repo in ('ann/model', f'ann/model@{pushed["commit"]}'):
            assert offline.good(pull, repo=repo, cache=tmp_path) == pushed['digest']
        assert offline.good("out = digest(timm.create_model('hf-hub:ann/model', pretrained=True, cache_dir=cache))",
                            cache=tmp_path) == pushed['digest']
        for repo in ('ann/gated', 'ann/model@v9'):
            check(offline.run(pull, repo=repo, cache=tmp_path), 'FileNotFoundError',
                  r"HF_HUB_OFFLINE is set, and config.json of ann/\w+ at '\w+' is not in the cache")
        check(offline.run("push(model, 'ann/model')"), 'ConnectionError', r'ann/model: .*unset the `HF_HUB_OFFLINE`')
    finally:
        offline.close()
    assert server.log == []
