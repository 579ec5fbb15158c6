"""A pull and a push while things go wrong: the right bytes or a clear error, and a plain second call succeeds."""
import re

import pytest
from hub_helpers import PULL, check_cache
from hub_repos import File
from hub_server import Fault

MB = 1 << 20
PUSH = """
model.fc.bias.data += number
out = push(model, repo, **options)
"""
# Requests of our own, which are made twice, and what huggingface_hub or the second download mends
OVERCOME = {
    'info 503': Fault('info', 'status'),
    'info 429': Fault('info', 'status', status=429),
    'info without an answer': Fault('info', 'lost'),
    "info is a proxy's page": Fault('info', 'answer', body=b'<html>Sign in</html>'),
    'head 503': Fault('head', 'status', path='config.json'),
    'head without an answer': Fault('head', 'lost', path='safetensors'),
    'config flipped': Fault('get', 'flip', path='config.json'),
    'weights flipped': Fault('get_lfs', 'flip'),
}
# What its versions treat in different ways
EITHER = {
    'weights cut, RST': Fault('get_lfs', 'rst', after=12 * MB),
    'weights cut, FIN': Fault('get_lfs', 'fin', after=12 * MB),
    'weights 503': Fault('get_lfs', 'status'),
    'weights too short': Fault('get_lfs', 'truncate', after=10 * MB),
    'config 503': Fault('get', 'status', path='config.json'),
}


@pytest.mark.parametrize('case', [*OVERCOME, *EITHER])
def test_a_fault_at_a_pull(case, client, server, pushed, tmp_path):
    server.faults = [OVERCOME.get(case) or EITHER[case]]
    result = client.run(PULL, repo='ann/model', cache=tmp_path)
    assert not server.faults[0].times
    check_cache(tmp_path)
    if result.error is not None:
        assert case in EITHER, result.log
        assert 'OSError' in result.error, result.log
        assert re.search(r'\(?(model\.safetensors|config\.json) of ann/model', result.message), result.message
        result = client.run(PULL, repo='ann/model', cache=tmp_path)
    assert result.out == pushed['digest'], result.log


# What no repetition mends -> what the error says
REFUSED = {
    'weights': (Fault('get_lfs', 'flip', times=100), r'model\.safetensors of ann/model at \w+ is damaged'),
    'config': (Fault('get', 'flip', times=100, path='config'), r'config\.json of ann/model at \w+ is damaged'),
    'page': (
        Fault('info', 'answer', times=100, body=b'<html>'),
        r'ann/model: no whole answer of a Hub came from http://127\S+ \(JSONDecodeError.*proxies between'),
    'busy': (Fault('info', 'status', times=100), r"(?s)503 .*http://127\S+/api/models/ann/model.*\(ann/model\)"),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_fault_that_stays(case, client, server, pushed, tmp_path):
    fault, said = REFUSED[case]
    server.faults = [fault]
    result = client.run(PULL, repo='ann/model', cache=tmp_path)
    assert 'OSError' in result.error, result.log
    assert re.search(said, result.message), result.message
    check_cache(tmp_path)
    if 'damaged' in said:
        assert re.search(r'its hash is [0-9a-f]{40,64}, the Hub states [0-9a-f]{40,64}', result.message)
        name = 'config.json' if case == 'config' else 'model.safetensors'
        assert not list(tmp_path.rglob(f'snapshots/*/{name}'))
    server.faults = []
    assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']


def test_a_flipped_byte_in_the_cache_is_found_and_replaced(client, server, pushed, tmp_path):
    """What timm alone, as measured, loads without a word; four processes at once, as in distributed training."""
    client.good(PULL, repo='ann/model', cache=tmp_path)
    for name in ('model.safetensors', 'config.json'):
        blob = next(tmp_path.rglob(f'snapshots/*/{name}')).resolve()
        content = bytearray(blob.read_bytes())
        content[-100] ^= 1
        blob.write_bytes(content)
        results = [job.wait() for job in [client.start(PULL, repo='ann/model', cache=tmp_path) for _ in range(4)]]
        assert {r.out for r in results} == {pushed['digest']}, [r.log for r in results if r.error]
        check_cache(tmp_path)


def test_disk_full(client, server, pushed, tmp_path):
    limited = 'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))\n'
    result = client.run(limited + PULL, repo='ann/model', cache=tmp_path)
    assert result.message == "[Errno 27] File too large: 'model.safetensors of ann/model'", result.log
    assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']


def test_pulled_to_a_folder(client, server, pushed, tmp_path):
    code = "out = sorted(os.listdir(timm_se50.download_checkpoint('ann/model', folder, cache_dir=cache)))"
    folder, files = tmp_path / 'new' / 'folder', server.hub.repos['ann/model'].commits[pushed['commit']]
    weights = server.hub.lfs[files['model.safetensors'].sha256]
    names = ['README.md', 'config.json', 'model.safetensors']
    assert client.good(code, folder=folder, cache=tmp_path / 'cache') == names
    (folder / 'README.md').write_text('of another model')
    assert client.good(code, folder=folder, cache=tmp_path / 'cache') == names
    assert (folder / 'README.md').read_bytes() == files['README.md'].content
    assert (folder / 'model.safetensors').read_bytes() == weights
    before = (folder / 'config.json').stat().st_mtime_ns
    server.faults = [Fault('info', 'status', status=401)]
    assert client.run(code, folder=folder, cache=tmp_path / 'cache').error
    assert (folder / 'config.json').stat().st_mtime_ns == before


PUSH_FAULTS = {
    'info 503': Fault('info', 'status'),
    'create 503': Fault('create', 'status'),
    'card check 503': Fault('yaml', 'status'),
    'preupload 503': Fault('preupload', 'status'),
    'preupload cut': Fault('preupload', 'fin'),
    "batch is a proxy's page": Fault('batch', 'answer', body=b'<html>'),
    'batch of another form': Fault('batch', 'answer', body=b'[]'),
    'upload flipped': Fault('put', 'flip'),
    'upload cut': Fault('put', 'rst'),
    'commit 503': Fault('commit', 'status'),
    'commit is null': Fault('commit', 'answer', body=b'null'),
    'answer to commit lost': Fault('commit', 'lost'),
}


@pytest.mark.parametrize('case', PUSH_FAULTS)
def test_a_fault_at_a_push(case, client, server, pushed):
    number = list(PUSH_FAULTS).index(case)
    given = dict(repo=f'ann/push-{number}', number=number + 10, options={})
    server.faults = [PUSH_FAULTS[case]]
    result = client.run(PUSH, **given)
    assert not server.faults[0].times
    if result.error is not None:
        assert {'OSError', 'ValueError'} & set(result.error), result.log
        assert given['repo'] in result.message or 'LFS' in result.message, result.message
        result = client.run(PUSH, **given)
    repo = server.hub.repos[given['repo']]
    assert len(repo.messages) == 2, result.log  # one commit, also where only the answer got lost
    files = repo.commits[result.out['commit']]
    assert files['model.safetensors'].sha256 in server.hub.lfs
    assert {n: f.size for n, f in files.items() if n != '.gitattributes'} == result.out['files']


def test_someone_else_was_faster(client, server, pushed):
    """Their config and our weights must not end up in one commit."""
    repo = server.hub.repos['ann/model']
    files = repo.commits[pushed['commit']]
    server.hooks['commit'] = lambda: repo.commit('main', files | {'config.json': File(b'{}')}, 'theirs')
    try:
        result = client.run(PUSH, repo='ann/model', number=41, options={})
        assert 'OSError' in result.error, result.log
        assert re.search(r'(?s)A commit has happened since.*\(ann/model\)', result.message), result.log
        assert repo.messages[-1] == 'theirs'
        assert client.good(PUSH, repo='ann/model', number=41, options={})['changed']
    finally:
        repo.refs['main'] = pushed['commit']
