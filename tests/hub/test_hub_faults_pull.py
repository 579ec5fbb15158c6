"""A pull while things go wrong: the right bytes or a clear error, and a plain second call succeeds."""
import re

import pytest
from hub_helpers import in_repo, no_more_faults, requests, run_all
from hub_server import Fault

from timm_se50.hub.stated import file_hash

MB = 1 << 20
DOWNLOAD = 'out = file_digest(timm_se50.download_checkpoint(repo, cache_dir=cache, quiet=True))'
PULL = 'out = pull(repo, cache)'


@pytest.fixture
def right(server, pushed):
    """The sha256 of ann/model's weights file, after a check that it is stored right."""
    return server.hub.repos['ann/model'].commits[pushed['commit']]['model.safetensors'].sha256


def check_cache(cache, right=None):
    """Nothing half-written, and no bytes under a hash that is not theirs, which another program would load."""
    assert not list(cache.rglob('*.incomplete'))
    blobs = list(cache.rglob('blobs/*'))
    assert [file_hash(b, b.name) for b in blobs] == [b.name for b in blobs]
    assert right is None or right in [b.name for b in blobs]


OVERCOME = {
    'cut in the middle, FIN': [Fault('get_lfs', 'fin', after=12 * MB)],
    'cut in the middle, RST': [Fault('get_lfs', 'rst', after=12 * MB)],
    'cut again and again': [
        Fault('get_lfs', 'fin', after=12 * MB), Fault('get_lfs', 'fin', after=MB), Fault('get_lfs', 'rst', after=MB)],
    'truncated': [Fault('get_lfs', 'truncate', after=10 * MB)],
    'weights flipped': [Fault('get_lfs', 'flip')],
    'config flipped': [Fault('get', 'flip', path='config.json')],
    'config cut': [Fault('get', 'fin', after=100, path='config.json')],
    'info 503': [Fault('info', 'status')],
    'info 429': [Fault('info', 'status', status=429)],
    'info FIN': [Fault('info', 'fin')],
    'info without an answer': [Fault('info', 'lost')],
    'info no JSON': [Fault('info', 'answer', body=b'{"id": ')],
    'info no text': [Fault('info', 'answer', body=b'\xff\xfe')],
    'redirect 429': [Fault('get', 'status', status=429, path='safetensors')],
    'redirect 500': [Fault('get', 'status', status=500, path='safetensors')],
    'redirect 503': [Fault('get', 'status', path='safetensors')],
    'redirect without an answer': [Fault('get', 'lost', path='safetensors')],
    'weights flipped, then 503': [Fault('get_lfs', 'flip'), Fault('get_lfs', 'status')],
    'GET 429': [Fault('get', 'status', status=429, path='config.json')],
    'GET 500': [Fault('get', 'status', status=500, path='config.json')],
    'GET 503': [Fault('get_lfs', 'status')],
}


# What no repetition mends -> what the error says
REFUSED = {
    'weights always flipped': (
        Fault('get_lfs', 'flip', times=100), r'model\.safetensors of \S+ at \w+ is damaged: its hash is .* states'),
    'config always flipped': (Fault('get', 'flip', times=100, path='config'), r'config\.json of \S+ at .* is damaged'),
    'always 503': (Fault('get_lfs', 'status', times=100), 'answered 503 again and again; try later'),
    # the error has one name in httpx and another in requests
    'always RST': (
        Fault('get_lfs', 'rst', times=100, after=MB), r'connection to http://127\S+ failed \((Read|ChunkedEncoding)'),
    'always FIN': (
        Fault('get_lfs', 'fin', times=100), r'connection to http://127\S+ failed \((RemoteProtocol|ChunkedEncoding)'),
    'never an end': (
        Fault('get_lfs', 'restart', times=100, after=11 * MB), r'model\.safetensors: the server sent more than twice'),
    'always too short': (
        Fault('get_lfs', 'truncate', times=100, after=MB), r'model\.safetensors of \S+ came out with another size'),
    'info always 429': (Fault('info', 'status', times=100, status=429), 'answered 429 again and again'),
}


def test_each_is_overcome_or_named_and_then_over(server, client, pushed, right, tmp_path):
    """Each with a repo (of the same content) and a cache of its own; one test, for they all wait at once."""
    def run(case):
        cache = tmp_path / repos[case]
        if case in OVERCOME:
            return cache, client.run(DOWNLOAD, repo=repos[case], cache=cache)
        first = client.run(PULL, repo=repos[case], cache=cache)
        check_cache(cache)
        no_more_faults(server, repos[case])
        return first, client.run(PULL, repo=repos[case], cache=cache)

    hub, cases = server.hub, [*OVERCOME, *REFUSED]
    repos = {case: f'ann/case-{i:02}' for i, case in enumerate(cases)}
    for case, repo in repos.items():
        hub.repos[repo] = hub.repos['ann/model']
        server.faults += in_repo(repo, OVERCOME[case] if case in OVERCOME else REFUSED[case][:1])
    results = run_all(run, cases)
    assert not [fault for fault in server.faults if fault.times]
    for case in OVERCOME:
        cache, result = results[case]
        assert result.out == right, (case, result.log)
        check_cache(cache, right)
    for case, (_, said) in REFUSED.items():
        first, second = results[case]
        assert 'OSError' in first.error, (case, first.log)
        assert re.search(said, first.message), (case, first.message)
        assert second.out == pushed['digest'], (case, second.log)


def test_a_flipped_byte_in_the_cache_is_found_and_replaced(client, server, pushed, right, tmp_path):
    """What timm alone, as measured, loads without a word."""
    client.good(PULL, repo='ann/model', cache=tmp_path)
    for name in ('model.safetensors', 'config.json'):
        blob = next(tmp_path.rglob(f'snapshots/*/{name}')).resolve()
        content = bytearray(blob.read_bytes())
        content[-100] ^= 1
        blob.write_bytes(content)
        assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
        check_cache(tmp_path, right)


def test_a_stale_cache_is_not_used(client, server, pushed, tmp_path):
    assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    newer = client.good('model.fc.bias.data += 7\nout = push(model, "ann/newer")')
    repo = server.hub.repos['ann/model']
    repo.commit('main', server.hub.repos['ann/newer'].commits[newer['commit']], 'newer')
    try:
        server.faults = [Fault('info', 'status'), Fault('get', 'status', path='safetensors')]
        assert client.good(PULL, repo='ann/model', cache=tmp_path) == newer['digest']
    finally:
        repo.refs['main'] = pushed['commit']


def test_disk_full(client, server, right, tmp_path):
    limited = 'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))\n'
    result = client.run(limited + DOWNLOAD, repo='ann/model', cache=tmp_path)
    assert 'OSError' in result.error, result.log
    assert re.fullmatch(rf"\[Errno 27\] File too large: '{tmp_path}/models--ann--model/blobs/{right}'", result.message)
    check_cache(tmp_path)
    assert client.good(DOWNLOAD, repo='ann/model', cache=tmp_path) == right


def test_two_processes_at_once(client, server, pushed, right, tmp_path):
    jobs = [client.start(PULL, repo='ann/model', cache=tmp_path) for _ in range(2)]
    assert [job.wait().out for job in jobs] == [pushed['digest']] * 2
    check_cache(tmp_path, right)


def test_two_processes_at_a_damaged_cache(client, server, pushed, right, tmp_path):
    client.good(PULL, repo='ann/model', cache=tmp_path)
    (tmp_path / 'models--ann--model' / 'blobs' / right).write_bytes(b'no')
    jobs = [client.start(PULL, repo='ann/model', cache=tmp_path) for _ in range(2)]
    results = [job.wait() for job in jobs]
    assert {r.out for r in results} == {pushed['digest']}, [r.log for r in results]
    check_cache(tmp_path, right)


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the file is whole and has been moved in the meantime
        return 0


def test_interrupted(client, server, right, tmp_path):
    server.faults = [Fault('get_lfs', 'stall', after=12 * MB)]
    job = client.start(DOWNLOAD, repo='ann/model', cache=tmp_path)
    while not any(_size(p) >= MB for p in tmp_path.rglob('*.incomplete')):
        assert not (job.folder / 'result').exists(), job.wait().log
    job.interrupt()
    assert job.wait().error[0] == 'KeyboardInterrupt'
    check_cache(tmp_path)
    assert client.good(DOWNLOAD, repo='ann/model', cache=tmp_path) == right
    assert requests(server, 'get_lfs') == (2,)


def test_pulled_to_a_folder(client, server, pushed, right, tmp_path):
    code = """
folder = timm_se50.download_checkpoint('ann/model', folder, cache_dir=cache)
out = [sorted(os.listdir(folder)), file_digest(folder)]
"""
    folder = tmp_path / 'new' / 'folder'
    files = ['README.md', 'config.json', 'model.safetensors']
    assert client.good(code, folder=folder, cache=tmp_path / 'cache') == [files, right]
    (folder / 'README.md').write_text('of another model')
    assert client.good(code, folder=folder, cache=tmp_path / 'cache') == [files, right]
    assert 'of another model' not in (folder / 'README.md').read_text()
    before = (folder / 'config.json').stat().st_mtime_ns
    server.faults = [Fault('info', 'status', status=401)]
    assert client.run(code, folder=folder, cache=tmp_path / 'cache').error
    assert (folder / 'config.json').stat().st_mtime_ns == before
