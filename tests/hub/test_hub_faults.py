"""A pull and a push while things go wrong: the right bytes or a clear error, and a plain second call succeeds."""
import re
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import changed
from hub_server import TOKEN, Fault
from huggingface_hub import constants

from timm_se50 import download_checkpoint, pull_from_hub, push_to_hub
from timm_se50.hub.verified import file_hash

# Requests of our own, which are made twice, and what huggingface_hub or the second download mends
OVERCOME = {
    'info 503': Fault('info', 'status'),
    'info 429': Fault('info', 'status', status=429),
    'info without an answer': Fault('info', 'lost'),
    "info is a proxy's page": Fault('info', 'answer'),
    'head 503': Fault('head', 'status', path='config.json'),
    'head without an answer': Fault('head', 'lost', path='safetensors'),
    'config flipped': Fault('get', 'flip', path='config.json'),
    'weights flipped': Fault('get_lfs', 'flip'),
}
# What its versions treat in different ways
EITHER = {
    'weights cut': Fault('get_lfs', 'cut'),
    'weights 503': Fault('get_lfs', 'status'),
    'config 503': Fault('get', 'status', path='config.json'),
}


def attempt(call, *args):
    """What a call gives, or its error if that is of one of the two kinds that are promised."""
    try:
        return call(*args)
    except (OSError, ValueError) as e:
        return e


def check_cache(cache):
    """No bytes in the cache under a hash that is not theirs, which another program would load."""
    blobs = [blob for blob in cache.rglob('blobs/*') if '.' not in blob.name]
    assert [file_hash(blob, blob.name) for blob in blobs] == [blob.name for blob in blobs]


@pytest.mark.parametrize('case', [*OVERCOME, *EITHER])
def test_a_fault_at_a_pull(case, server, weights, cache):
    server.faults = [OVERCOME.get(case) or EITHER[case]]
    model = attempt(pull_from_hub, 'ann/model')
    check_cache(cache)
    if isinstance(model, OSError):
        assert case in EITHER
        assert re.search(r'(model\.safetensors|config\.json) of ann/model', str(model))
        model = pull_from_hub('ann/model')
    assert changed(model, weights) == []


# What no repetition mends -> what the error says
REFUSED = {
    'weights': (Fault('get_lfs', 'flip', -1), r'model\.safetensors of ann/model at \w+ is damaged: its hash is '
                r'[0-9a-f]{64}, the Hub states [0-9a-f]{64}'),
    'config': (Fault('get', 'flip', -1, path='config'), r'config\.json of ann/model at \w+ is damaged'),
    'page': (Fault('info', 'answer', -1),
             r'ann/model: no whole answer of a Hub came from http://127\S+ \(JSONDecodeError.*proxies between'),
    'busy': (Fault('info', 'status', -1), r'503 .*http://127\S+/api/models/ann/model.*\(ann/model\)'),
    'private': (Fault('info', 'status', -1, 401, 'RepoNotFound'), r'Repository Not Found .*\(ann/model; log in with'),
    'expired token': (Fault('info', 'status', -1, 401), r'401 .*\(ann/model; log in with `hf auth login`'),
    'gated': (Fault('head', 'status', -1, 403, 'GatedRepo'), r'gated repo .*\(config\.json of ann/model\)'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_fault_that_stays(case, server, weights, cache):
    fault, said = REFUSED[case]
    server.faults = [fault]
    with pytest.raises(OSError, match=f'(?s){said}') as error:
        pull_from_hub('ann/model')
    assert TOKEN not in str(error.value)
    check_cache(cache)
    if case in ('weights', 'config'):
        assert not list(cache.rglob('config.json' if case == 'config' else 'model.safetensors'))
    server.faults = []
    assert changed(pull_from_hub('ann/model'), weights) == []


@pytest.mark.parametrize(('repo', 'error', 'said'), [
    ('ann/modle', OSError, 'Repository Not Found .*/ann/modle'),
    ('ann/model@v9', OSError, 'Revision Not Found .*/ann/model/revision/v9'),
    ('ann/model/x', ValueError, "'namespace/repo_name': 'ann/model/x'"),
])
def test_what_is_not_there_is_named(repo, error, said, server):
    with pytest.raises(error, match=f'(?s){said}'):
        pull_from_hub(repo)


def test_the_hub_out_of_reach(server, monkeypatch):
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(ConnectionError, match=r'ann/model: no .* came from http://127\.0\.0\.1:9 .*Check the network'):
        pull_from_hub('ann/model')


def test_a_flipped_byte_in_the_cache_is_found_and_replaced(server, cache):
    """What timm alone, as measured, loads without a word; four at once, as in distributed training."""
    folder = download_checkpoint('ann/model')
    for name in ('model.safetensors', 'config.json'):
        content = bytearray((folder / name).read_bytes())
        content[-100] ^= 1
        (folder / name).resolve().write_bytes(content)
        with ThreadPoolExecutor() as pool:
            pulls = [pool.submit(download_checkpoint, 'ann/model', quiet=True) for _ in range(4)]
        assert {pull.result() for pull in pulls} == {folder}
        assert (folder / name).read_bytes() == server.repos['ann/model'].files[name]
        check_cache(cache)


def test_disk_full(server, weights):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: 'model\.safetensors of ann/model'"):
            pull_from_hub('ann/model')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert changed(pull_from_hub('ann/model'), weights) == []


def test_pulled_to_a_folder(server, tmp_path):
    folder, files = tmp_path / 'new' / 'folder', server.repos['ann/model'].files
    for _ in range(2):
        assert download_checkpoint('ann/model', folder) == folder
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        (folder / 'README.md').write_text('of another model')
    before = (folder / 'config.json').stat().st_mtime_ns
    server.faults = [Fault('info', 'status', status=401)]
    with pytest.raises(OSError, match='401'):
        download_checkpoint('ann/model', folder)
    assert (folder / 'config.json').stat().st_mtime_ns == before


PUSH_FAULTS = {
    'info 503': Fault('info', 'status'),
    'create 503': Fault('create', 'status'),
    'create 403': Fault('create', 'status', status=403),
    'card check 503': Fault('yaml', 'status'),
    'preupload 503': Fault('preupload', 'status'),
    'preupload without an answer': Fault('preupload', 'lost'),
    "batch is a proxy's page": Fault('batch', 'answer'),
    'batch of another form': Fault('batch', 'answer', body=b'[]'),
    'upload without an answer': Fault('put', 'lost'),
    'commit 503': Fault('commit', 'status'),
    'commit 403': Fault('commit', 'status', status=403),
    'commit is null': Fault('commit', 'answer', body=b'null'),
    'answer to commit lost': Fault('commit', 'lost'),
}


@pytest.mark.parametrize('case', PUSH_FAULTS)
def test_a_fault_at_a_push(case, server, model):
    server.faults = [PUSH_FAULTS[case]]
    error = attempt(push_to_hub, model, 'ann/new')
    if isinstance(error, Exception):
        assert re.search('ann/new|LFS', str(error))
        assert TOKEN not in str(error)
        push_to_hub(model, 'ann/new')
    repo = server.repos['ann/new']
    assert len(repo.messages) == 2  # one commit, also where only the answer got lost
    assert repo.files['model.safetensors'] == server.repos['ann/model'].files['model.safetensors']
    assert repo.files.keys() == {'.gitattributes', 'model.safetensors', 'config.json', 'README.md'}


def test_someone_else_was_faster(server, model):
    """Their config and our weights must not end up in one commit."""
    repo = server.repos['ann/model']
    server.hooks['commit'] = lambda: repo.commit(repo.files | {'config.json': b'{}'}, 'theirs')
    with torch.no_grad():
        model.fc.bias += 1
    with pytest.raises(OSError, match=r'(?s)A commit has happened since.*\(ann/model\)'):
        push_to_hub(model, 'ann/model')
    assert repo.messages[-1] == 'theirs'
    assert push_to_hub(model, 'ann/model').changed
