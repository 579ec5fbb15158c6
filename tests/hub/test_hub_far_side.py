"""A server, a cache and a repo that lie: nothing of the user's is touched, and the error says whose fault it is."""
import json
import os
from pathlib import Path

import pytest
import timm
import torch
from helpers import changed
from hub_api import Repo, sibling
from hub_server import Fault
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from timm_se50 import download_checkpoint, pull_from_hub, push_to_hub


@pytest.mark.parametrize('header', ['ETag', 'X-Linked-Etag', 'X-Repo-Commit'])
def test_an_answer_is_no_path(header, server, weights, cache, tmp_path):
    """huggingface_hub itself links to, writes and overwrites the file that these name."""
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    for value in (f'"{victim}"', '"../../../victim"', f'"{"f" * 64}"'):
        server.headers[header] = value
        with pytest.raises(OSError, match=r'of ann/model: http://127\S+ states the commit \w+ and the hash'):
            pull_from_hub('ann/model')
    assert server.requests('get_lfs') == (0,)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ['victim']
    assert victim.read_text() == 'mine'
    server.headers.clear()
    assert changed(pull_from_hub('ann/model'), weights) == []


@pytest.mark.parametrize('damaged', ['entry', 'blob', 'device', 'folder'])
def test_links_out_of_the_cache_are_not_followed(damaged, server, weights, cache, tmp_path):
    """What an evil etag of another program's pull left: the entry, or a folder, leads to a file of the user's."""
    entry, home = download_checkpoint('ann/model') / 'model.safetensors', tmp_path / 'home'
    home.mkdir()
    (home / 'mine').write_text('mine')
    if damaged == 'folder':
        blobs = entry.resolve().parent
        for file in blobs.iterdir():
            (home / file.name).write_bytes(b'mine')
            file.unlink()
        blobs.rmdir()
        blobs.symlink_to(home)
    else:
        path = entry.resolve() if damaged == 'blob' else entry
        path.unlink()
        path.symlink_to('/dev/zero' if damaged == 'device' else home / 'mine')
    before = {p: p.read_bytes() for p in home.iterdir()}
    if damaged == 'folder':
        with pytest.raises(OSError, match='blobs leads out of the cache of ann/model'):
            pull_from_hub('ann/model')
    else:
        assert changed(pull_from_hub('ann/model'), weights) == []
    assert {p: p.read_bytes() for p in home.iterdir()} == before


def test_a_revision_is_no_path(server, weights, tmp_path):
    name, repo = '../../../victim', server.repos['ann/model']
    repo.refs[name] = repo.refs['main']
    assert changed(pull_from_hub('ann/model', revision=name, cache_dir=tmp_path / 'a' / 'b'), weights) == []
    assert not list(tmp_path.rglob('victim'))


INFO = {
    'null': (lambda i: None, 'no whole answer of a Hub'),
    'a list': (lambda i: [], 'no whole answer of a Hub'),
    'sha is a path': (lambda i: i | {'sha': '../../../../x'}, r"states '\S+/x' as the hash of 'the commit'"),
    'files are numbers': (lambda i: i | {'siblings': [1, 2]}, 'no whole answer of a Hub'),
    'no blobId': (lambda i: _each(i, blobId=None), 'states None as the hash of'),
    'blobId is a path': (lambda i: _each(i, blobId='../../x'), "states '../../x' as the hash of"),
    'deep': (lambda i: i | {'siblings': json.loads('[' * 900 + ']' * 900)}, 'no whole answer of a Hub'),
}


def _each(info, **changes):
    return info | {'siblings': [s | changes for s in info['siblings']]}


@pytest.mark.parametrize('case', INFO)
def test_an_answer_of_another_form(case, server, cache):
    change, message = INFO[case]
    siblings = [sibling('config.json', b'{}')]
    body = json.dumps(change({'id': 'ann/model', 'sha': 'f' * 40, 'siblings': siblings})).encode()
    server.faults = [Fault('info', 'answer', -1, body=body)]
    with pytest.raises(OSError, match=f'ann/model: .*{message}'):
        pull_from_hub('ann/model')
    assert not cache.exists()


def test_a_read_only_cache_that_holds_all(server, weights, cache, monkeypatch):
    """Root may write anywhere, so the one call that there would be is made to refuse."""
    download_checkpoint('ann/model')
    (cache / 'models--ann--model' / 'refs' / 'main').write_text('0' * 40)
    before = {p: p.lstat().st_mtime_ns for p in cache.rglob('*')}

    def refuse(path, *args, **kwargs):
        raise OSError(30, 'Read-only file system', str(path))
    monkeypatch.setattr(Path, 'write_text', refuse)
    assert changed(pull_from_hub('ann/model'), weights) == []
    assert {p: p.lstat().st_mtime_ns for p in cache.rglob('*')} == before


def test_offline(server, weights, monkeypatch):
    folder = download_checkpoint('ann/model')
    server.log.clear()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    for repo in ('ann/model', f'ann/model@{folder.name}'):
        assert changed(pull_from_hub(repo), weights) == []
    for repo in ('ann/other', 'ann/model@v9'):
        with pytest.raises(FileNotFoundError, match=f"HF_HUB_OFFLINE is set, and config.json of {repo.split('@')[0]}"):
            pull_from_hub(repo)
    assert server.log == []


@pytest.mark.filterwarnings('ignore::UserWarning')  # huggingface_hub says that it copies
def test_a_cache_without_links(server, weights, cache, monkeypatch):
    """As on Windows: files are copies, verified online, and there offline."""
    def symlink(*args, **kwargs):
        raise OSError('A required privilege is not held by the client')
    monkeypatch.setattr(os, 'symlink', symlink)
    assert changed(pull_from_hub('ann/model'), weights) == []
    file = next(cache.rglob('model.safetensors'))
    assert not file.is_symlink()
    with monkeypatch.context() as offline:
        offline.setattr(constants, 'HF_HUB_OFFLINE', True)
        assert changed(pull_from_hub('ann/model'), weights) == []
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert changed(pull_from_hub('ann/model'), weights) == []


def test_offline_a_file_under_a_wrong_hash_stays_and_is_not_loaded(server, weights, monkeypatch):
    entry = download_checkpoint('ann/model') / 'model.safetensors'
    other = entry.resolve().rename(entry.resolve().with_name('f' * 64))
    entry.unlink()
    entry.symlink_to(other)
    with monkeypatch.context() as offline:
        offline.setattr(constants, 'HF_HUB_OFFLINE', True)
        with pytest.raises(OSError, match=r'model\.safetensors of ann/model is damaged'):
            pull_from_hub('ann/model')
    assert other.exists()
    assert changed(pull_from_hub('ann/model'), weights) == []


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('config.json', b'\xff\xfe{}', 'is no config.json of timm: UnicodeDecodeError'),
    ('model.safetensors', b'\xff' * 100, 'cannot be read'),
    ('config.json', {'num_classes': 5}, r"'fc\.weight' has shape \(3, 64\), and \(5, 64\)"),
    ('config.json', {'architecture': 'resnet18'}, "is of a 'resnet18'; expected"),
], ids=['no text', 'no safetensors', 'more classes', 'another network'])  # of many: tests/checkpoint
def test_files_that_lie_are_the_repos_fault(name, content, message, server):
    """Each is what the Hub states."""
    repo = server.repos['ann/model']
    if isinstance(content, dict):
        content = json.dumps(json.loads(repo.files['config.json']) | content).encode()
    repo.commit(repo.files | {name: content})
    for pull in (pull_from_hub, download_checkpoint):
        with pytest.raises(ValueError, match=f'^ann/model at .*{message}'):
            pull('ann/model')


def test_a_pickle_is_refused_and_not_even_downloaded(server):
    server.repos['ann/pickled'] = Repo()
    server.repos['ann/pickled'].commit(
        {'config.json': server.repos['ann/model'].files['config.json'], 'pytorch_model.bin': b'\x80\x04.'})
    with pytest.raises(ValueError, match=r'ann/pickled has no model\.safetensors; .* Pickled'):
        pull_from_hub('ann/pickled')
    assert server.requests('head', 'get') == (0, 0)
    with pytest.raises(EntryNotFoundError, match=r'model\.safetensors'):
        timm.create_model('hf-hub:ann/pickled', pretrained=True)
    assert server.requests('get', 'get_lfs') == (1, 0)  # of its config.json


def test_weights_that_are_no_numbers(server, model):
    with torch.no_grad():
        model.layer3[1].bn2.bias[4] = float('inf')
    push_to_hub(model, 'ann/infinite')
    with pytest.warns(UserWarning, match=r"'layer3\.1\.bn2\.bias' holds NaN or infinity"):
        pull_from_hub('ann/infinite')
