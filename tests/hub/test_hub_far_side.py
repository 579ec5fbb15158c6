"""A server, a cache and a repo that lie: nothing of the user's is touched, and the error says whose fault it is."""
import json
import os
import re

import pytest
from hub_helpers import PULL, check_cache, requests
from hub_repos import File
from hub_server import Fault


@pytest.fixture
def files(server, pushed):
    """The files of ann/model."""
    return server.hub.repos['ann/model'].commits[pushed['commit']]


@pytest.mark.parametrize('header', ['ETag', 'X-Linked-Etag', 'X-Repo-Commit'])
def test_an_answer_is_no_path(header, client, server, pushed, tmp_path):
    """huggingface_hub itself links to, writes and overwrites the file that these name."""
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    for value in (f'"{victim}"', '"../../../victim"', f'"{"f" * 64}"'):
        server.headers[header] = value
        result = client.run(PULL, repo='ann/model', cache=tmp_path / 'cache')
        assert 'OSError' in result.error, result.log
        assert re.search(r'of ann/model: http://127\S+ states the commit \w+ and the hash', result.message)
    assert requests(server, 'get', 'get_lfs')[1] == 0
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ['victim']
    assert victim.read_text() == 'mine'
    server.headers.clear()
    assert client.good(PULL, repo='ann/model', cache=tmp_path / 'cache') == pushed['digest']
    check_cache(tmp_path)


@pytest.mark.parametrize('damaged', ['entry', 'blob', 'device', 'folder'])
def test_links_out_of_the_cache_are_not_followed(damaged, client, server, pushed, tmp_path):
    """What an evil etag of another program's pull left: the entry, or a folder, leads to a file of the user's."""
    cache, home = tmp_path / 'cache', tmp_path / 'home'
    client.good(PULL, repo='ann/model', cache=cache)
    home.mkdir()
    repo, (entry,) = cache / 'models--ann--model', cache.rglob('snapshots/*/model.safetensors')
    blob = entry.resolve()
    (home / 'mine').write_text('mine')
    if damaged == 'folder':
        for file in (repo / 'blobs').iterdir():
            (home / file.name).write_bytes(b'mine')
            file.unlink()
        (repo / 'blobs').rmdir()
        (repo / 'blobs').symlink_to(home)
    else:
        path = blob if damaged == 'blob' else entry
        path.unlink()
        path.symlink_to('/dev/zero' if damaged == 'device' else home / 'mine')
    before = {p: p.read_bytes() for p in home.iterdir()}
    result = client.run(PULL, repo='ann/model', cache=cache)
    if damaged == 'folder':
        assert re.search(r'blobs leads out of the cache of ann/model', result.message), result.log
    else:
        assert result.out == pushed['digest'], result.log
    assert {p: p.read_bytes() for p in home.iterdir()} == before


def test_a_revision_is_no_path(client, server, pushed, tmp_path):
    name = '../../../victim'
    server.hub.repos['ann/model'].refs[name] = pushed['commit']
    try:
        assert client.good('out = pull(repo, cache, revision=revision)', repo='ann/model', cache=tmp_path / 'a' / 'b',
                           revision=name) == pushed['digest']
    finally:
        del server.hub.repos['ann/model'].refs[name]
    assert not list(tmp_path.rglob('victim'))


INFO = {
    'null': (lambda i: None, 'no whole answer of a Hub'),
    'a list': (lambda i: [], 'no whole answer of a Hub'),
    'sha is a path': (lambda i: i | {'sha': '../../../../x'}, r"states '\S+/x' as the hash of 'the commit'"),
    'files are numbers': (lambda i: i | {'siblings': [1, 2]}, 'no whole answer of a Hub'),
    'no blobId': (lambda i: _each(i, blobId=None), r'states None as the hash of'),
    'blobId is a path': (lambda i: _each(i, blobId='../../x'), r"states '../../x' as the hash of"),
    'deep': (lambda i: i | {'siblings': json.loads('[' * 900 + ']' * 900)}, 'no whole answer of a Hub'),
}


def _each(info, **changes):
    return info | {'siblings': [s | changes for s in info['siblings']]}


@pytest.mark.parametrize('case', INFO)
def test_an_answer_of_another_form(case, client, server, files, pushed, tmp_path):
    change, message = INFO[case]
    siblings = [f.info(p, 'rfilename') for p, f in files.items() if not f.sha256]
    body = json.dumps(change({'id': 'ann/model', 'sha': pushed['commit'], 'siblings': siblings})).encode()
    server.faults = [Fault('info', 'answer', times=100, body=body)]
    result = client.run(PULL, repo='ann/model', cache=tmp_path)
    server.faults = []
    assert 'OSError' in result.error, result.log
    assert re.search(f'ann/model: .*{message}', result.message), result.message
    assert not list(tmp_path.rglob('*'))


READ_ONLY = """
import errno, io, pathlib
def refusing(call):
    opens = call is io.open
    def wrapper(path, *args, **kwargs):
        mode = (args or kwargs.get('mode') or 'r') if opens else 'w'
        if str(path).startswith(cache) and set('wax+') & set(mode[0]):
            raise OSError(errno.EROFS, 'Read-only file system', str(path))
        return call(path, *args, **kwargs)
    return wrapper
for name in ('replace', 'rename', 'unlink', 'remove', 'mkdir', 'symlink'):
    setattr(os, name, refusing(getattr(os, name)))
io.open = refusing(io.open)
if hasattr(pathlib, '_NormalAccessor'):  # of Python 3.10, which has looked io.open up already
    pathlib._NormalAccessor.open = staticmethod(io.open)
"""


def test_a_read_only_cache_that_holds_all(client, server, pushed, tmp_path):
    """Root may write anywhere, so the system's calls are made to refuse here."""
    client.good(PULL, repo='ann/model', cache=tmp_path)
    ref = tmp_path / 'models--ann--model' / 'refs' / 'main'
    ref.write_text('0' * 40)
    assert client.good(READ_ONLY + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    assert ref.read_text() == '0' * 40


OFFLINE = 'huggingface_hub.constants.HF_HUB_OFFLINE = True\n'


def test_a_cache_without_links(client, server, pushed, tmp_path):
    """As on Windows, or with HF_HUB_DISABLE_SYMLINKS=1: files are copies, verified online, and there offline."""
    no_links = '''
def symlink(*args, **kwargs):
    raise OSError('A required privilege is not held by the client')
os.symlink = symlink
import warnings
warnings.simplefilter('ignore')
'''
    assert client.good(no_links + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    weights = next(tmp_path.rglob('snapshots/*/model.safetensors'))
    assert not weights.is_symlink()
    server.log.clear()
    assert client.good(OFFLINE + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    assert server.log == []
    content = bytearray(weights.read_bytes())
    content[-9] ^= 1
    weights.write_bytes(content)
    assert client.good(no_links + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    disabled = "huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS = True\n"
    if hasattr(__import__('huggingface_hub').constants, 'HF_HUB_DISABLE_SYMLINKS'):
        assert client.good(disabled + PULL, repo='ann/model', cache=tmp_path / 'new') == pushed['digest']
        assert not [p for p in (tmp_path / 'new').rglob('*') if p.is_symlink()]


def test_offline_a_file_under_a_wrong_hash_stays_and_is_not_loaded(client, server, pushed, tmp_path):
    client.good(PULL, repo='ann/model', cache=tmp_path)
    entry = next(tmp_path.rglob('snapshots/*/model.safetensors'))
    other = entry.resolve().with_name('f' * 64)
    os.rename(entry.resolve(), other)
    entry.unlink()
    entry.symlink_to(other)
    result = client.run(OFFLINE + PULL, repo='ann/model', cache=tmp_path)
    assert 'model.safetensors of ann/model is damaged, or another file: the cache names it fff' in result.message
    assert other.exists()
    assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('config.json', b'\xff\xfe{}', 'cannot be used: UnicodeDecodeError'),
    ('model.safetensors', b'\xff' * 100, 'cannot be read'),
    ('config.json', {'num_classes': 5}, r"'fc\.weight' has shape \(3, 1024\), and \(5, 1024\)"),
    ('config.json', {'channels': [16000] * 4}, 'another network than its weights are of'),
], ids=['no text', 'no safetensors', 'more classes', 'a huge one'])  # of many: tests/checkpoint
def test_files_that_lie_are_the_repos_fault(name, content, message, client, server, files, tmp_path):
    """Each is what the Hub states."""
    if isinstance(content, dict):
        config = json.loads(files['config.json'].content)
        config['model_args'] |= {key: value for key, value in content.items() if key != 'num_classes'}
        config['num_classes'] = content.get('num_classes', 3)
        content = json.dumps(config).encode()
    repo = server.hub.create(f'lies-{len(server.hub.repos)}', 'ann', False, 'hf_annwrite')
    repo.commit('main', files | {name: File(content)}, 'add')
    result = client.run(PULL, repo=repo.id, cache=tmp_path)
    assert 'ValueError' in result.error, result.log
    assert re.search(f'^{repo.id} at .*{message}', result.message), result.message


def test_weights_that_are_no_numbers(client, server, tmp_path):
    code = """
import warnings
model.layer3[1].bn2.bias.data[4] = float('inf')
push(model, 'ann/infinite')
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    timm_se50.pull_from_hub('ann/infinite', cache_dir=cache)
out = [str(w.message) for w in caught if 'infinity' in str(w.message)]
"""
    [found] = client.good(code, cache=tmp_path)
    assert "'layer3.1.bn2.bias' holds NaN or infinity" in found
