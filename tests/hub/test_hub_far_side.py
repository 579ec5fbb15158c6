"""A server, a cache and a repo that lie: nothing of the user's is touched, and the error says whose fault it is."""
import json
import os
import re
from dataclasses import replace

import pytest
from hub_repos import File
from hub_server import Fault
from test_hub_faults_pull import DOWNLOAD, PULL, check_cache

NO_WAIT = '''
import timm_se50.hub.errors, timm_se50.hub.push
timm_se50.hub.errors.WAITS = timm_se50.hub.push.WAITS = (0.0, 0.0, 0.0)
'''


@pytest.fixture
def files(server, pushed):
    """The files of ann/model."""
    return server.hub.repos['ann/model'].commits[pushed['commit']]


@pytest.fixture
def push_files(server):
    """`push_files(files)` makes a repo of them, as anybody may, and returns its id."""
    def push_files(files):
        name = f'repo-{len(server.hub.repos)}'
        contents = {n: File(f) if isinstance(f, bytes) else f for n, f in files.items()}
        server.hub.create(name, 'ann', False, 'hf_annwrite').commit('main', contents, 'add')
        return f'ann/{name}'
    return push_files


@pytest.mark.parametrize(('exists', 'header'), [
    (True, 'ETag'), (False, 'X-Linked-Etag'),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in ((True, 'X-Linked-Etag'), (False, 'ETag')))])
def test_an_etag_is_no_path(header, exists, client, server, pushed, tmp_path):
    """huggingface_hub itself links to, writes and overwrites the file that it names."""
    victim = tmp_path / 'victim'
    if exists:
        victim.write_text('mine')
    for i, value in enumerate((f'"{victim}"', '"../../../victim"')):
        server.headers[header] = value
        for fault in ([], [Fault('get_lfs', 'flip')]):
            server.faults = fault
            assert client.good(PULL, repo='ann/model', cache=tmp_path / f'{i}{len(fault)}') == pushed['digest']
            assert (victim.read_text() if exists else victim.exists()) == ('mine' if exists else False)
    check_cache(tmp_path)


@pytest.mark.parametrize('damaged', ['entry', 'blob', 'folder'])
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
        path = entry if damaged == 'entry' else blob
        path.unlink()
        path.symlink_to(home / 'mine')
    before = {p: p.read_bytes() for p in home.iterdir()}
    result = client.run(PULL, repo='ann/model', cache=cache)
    if damaged == 'folder':
        assert re.search(r'blobs leads to \S+home, out of the cache of its repo', result.message), result.log
    else:
        assert result.out == pushed['digest'], result.log
    assert {p: p.read_bytes() for p in home.iterdir()} == before


INFO = {
    'null': (lambda i: None, 'no answer of a Hub'),
    'empty': (lambda i: {}, 'no answer of a Hub'),
    'a list': (lambda i: [], 'no answer of a Hub'),
    'no sha': (lambda i: i | {'sha': None}, r'has the commit None, expected 40 hex digits'),
    'sha is a path': (lambda i: i | {'sha': '../../../../x'}, 'expected 40 hex digits'),
    'no files': (lambda i: {k: v for k, v in i.items() if k != 'siblings'}, 'has no list of files'),
    'files are numbers': (lambda i: i | {'siblings': [1, 2]}, 'no answer of a Hub'),
    'no blobId': (lambda i: _each(i, blobId=None), r"'\S+' of ann/model has hash None"),
    'blobId is a path': (lambda i: _each(i, blobId='../../x'), r'expected 40 hex digits'),
    'no size': (lambda i: _each(i, size=None), 'and size None'),
    'a negative size': (lambda i: _each(i, size=-1), 'and size -1'),
    'a petabyte': (lambda i: _each(i, size=1 << 50), r'stated to have 1,125,899,906,842,624 bytes, and \S+ are free'),
    'lfs is a list': (lambda i: _each(i, lfs=[1]), 'no answer of a Hub'),
    'deep': (lambda i: i | {'siblings': json.loads('[' * 900 + ']' * 900)}, 'no answer of a Hub'),
}


def _each(info, **changes):
    return info | {'siblings': [s | changes for s in info['siblings']]}


@pytest.mark.parametrize('case', INFO)
def test_an_answer_of_another_form(case, client, server, files, pushed, tmp_path):
    change, message = INFO[case]
    siblings = [f.info(p, 'rfilename') for p, f in files.items()]
    body = json.dumps(change({'id': 'ann/model', 'sha': pushed['commit'], 'siblings': siblings})).encode()
    server.faults = [Fault('info', 'answer', times=100, body=body)]
    result = client.run(NO_WAIT + PULL, repo='ann/model', cache=tmp_path)
    server.faults = []
    assert 'OSError' in result.error, result.log
    assert re.search(message, result.message), result.message
    assert not list(tmp_path.rglob('x'))


@pytest.mark.parametrize(('route', 'body'), [
    ('preupload', b'null'), ('preupload', b'{"files": [{}]}'), ('batch', b'[]'), ('batch', b'{"objects": [{}]}'),
    ('commit', b'{}'), ('commit', b'[]'), ('commit', b'{"commitOid": 5, "commitUrl": "x"}'), ('create', b'[]'),
    ('whoami', b'null'), ('whoami', b'{}')])
def test_an_answer_of_another_form_to_a_push(route, body, client, server):
    server.faults = [Fault(route, 'answer', times=100, body=body)]
    repo = f'{"" if route == "whoami" else "ann/"}form-{len(server.hub.repos)}'
    code = f'{NO_WAIT}model.fc.bias.data += 90\nout = push(model, {repo!r})'
    result = client.run(code)
    server.faults = []
    assert 'OSError' in result.error, result.log
    assert re.search(r'(answered with something that is no answer of a Hub|There is no model repo)', result.message)


def test_a_read_only_cache_that_holds_all(client, server, pushed, tmp_path):
    """Root may write anywhere, so the system's calls are made to refuse here."""
    client.good(PULL, repo='ann/model', cache=tmp_path)
    read_only = """
import errno, io
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
"""
    ref = tmp_path / 'models--ann--model' / 'refs' / 'main'
    assert client.good(read_only + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    ref.write_text('0' * 40)
    assert client.good(read_only + PULL, repo='ann/model', cache=tmp_path) == pushed['digest']
    assert ref.read_text() == '0' * 40


def test_processes_that_heal_a_cache_take_nothing_from_each_other(client, server, pushed, tmp_path):
    client.good(PULL, repo='ann/model', cache=tmp_path)
    blob = next(tmp_path.rglob('snapshots/*/model.safetensors')).resolve()
    for _ in range(4):
        with open(blob, 'r+b') as f:
            f.seek(1000)
            f.write(b'damaged')
        server.log.clear()
        results = [job.wait() for job in [client.start(PULL, repo='ann/model', cache=tmp_path) for _ in range(4)]]
        assert {r.out for r in results} == {pushed['digest']}, [r.log for r in results if r.error]
        assert sum(entry[1] == 'get_lfs' for entry in server.log) == 1  # the others waited for it
    check_cache(tmp_path)


CONFIGS = {
    'more classes': (lambda c: c | {'num_classes': 5}, "states 5 classes, and 'fc.weight' has 3 rows"),
    'classes below zero': (lambda c: c | {'num_classes': -1}, "'num_classes' in pretrained_cfg is -1"),
    'classes in model_args': (lambda c: _in(c, 'model_args', num_classes=5), "'num_classes' is 3, and 5 in model_args"),
    'classifier': (lambda c: _in(c, 'pretrained_cfg', classifier='layer4.0.conv1'), "'classifier' in pretrained_cfg"),
    'first_conv': (lambda c: _in(c, 'pretrained_cfg', first_conv='layer1.0.conv1'), "'first_conv' in pretrained_cfg"),
    'first_conv 5': (lambda c: _in(c, 'pretrained_cfg', first_conv=5), "'first_conv' in pretrained_cfg is 5"),
    'label_offset': (lambda c: _in(c, 'pretrained_cfg', label_offset=1), "'label_offset'"),
    'hf_hub_filename': (lambda c: _in(c, 'pretrained_cfg', hf_hub_filename='x.bin'), "'hf_hub_filename'"),
    'url': (lambda c: _in(c, 'pretrained_cfg', url='http://x/y'), "'url' in its pretrained_cfg says where"),
    'meta': (lambda c: _in(c, 'model_args', device='meta'), "'device' in model_args is none that a saved model has"),
    'checkpoint_path': (lambda c: _in(c, 'model_args', checkpoint_path='/x'), "'checkpoint_path' in model_args"),
    'pretrained': (lambda c: _in(c, 'model_args', pretrained=False), "'pretrained' in model_args"),
    'pretrained_strict': (lambda c: _in(c, 'model_args', pretrained_strict=False), "'pretrained_strict'"),
    'no channels': (lambda c: _in(c, 'model_args', channels=[]), r"'channels' in model_args is \[\]"),
    'one stage': (lambda c: _in(c, 'model_args', layers=[1]), r"'layers' in model_args is \[1\]"),
    'a huge one': (lambda c: _in(c, 'model_args', channels=[16000] * 4), 'it was not built'),
    'a huge head': (lambda c: c | {'num_classes': 10**9}, 'it was not built'),
    'null': (lambda c: None, "names no 'architecture'"),
    'no pretrained_cfg': (lambda c: c | {'pretrained_cfg': None}, "'pretrained_cfg' is None; expected a mapping"),
    'act_layer': (lambda c: _in(c, 'model_args', act_layer='nothing'), 'no model can be made of it: KeyError'),
}


def _in(config, part, **changes):
    return config | {part: config[part] | changes}


@pytest.mark.parametrize('case', CONFIGS)
def test_a_config_that_lies(case, client, push_files, files, tmp_path):
    """Each is what the Hub states: it is the repo that is wrong."""
    change, message = CONFIGS[case]
    content = json.dumps(change(json.loads(files['config.json'].content))).encode()
    repo = push_files(files | {'config.json': content})
    result = client.run(PULL, repo=repo, cache=tmp_path)
    assert 'ValueError' in result.error, result.log
    assert re.search(message, result.message), result.message
    assert result.message.startswith(f'{repo} at ')


@pytest.mark.parametrize(('name', 'content', 'message'), [
    ('config.json', b'\xff\xfe{}', 'is no JSON: '), ('config.json', b'[' * 100_000, 'is no JSON: '),
    ('config.json', b' ' * (1 << 25), 'has 33,554,432 bytes; expected a config.json'),
    ('model.safetensors', b'', 'cannot be read'), ('model.safetensors', b'\xff' * 100, 'cannot be read'),
    ('model.safetensors', b'\x02\0\0\0\0\0\0\0{}', "states 3 classes, and 'fc.weight' has 0 rows"),
], ids=['no text', 'too deep', 'too large', 'empty', 'noise', 'no weights'])  # pytest would make them of the bytes
def test_files_that_are_none(name, content, message, client, push_files, files, tmp_path):
    repo = push_files(files | {name: content})
    for code in (PULL, DOWNLOAD):
        result = client.run(code, repo=repo, cache=tmp_path)
        if code == DOWNLOAD and 'classes' in message:
            continue  # the files are what the Hub states, and readable
        assert 'ValueError' in result.error, result.log
        assert re.search(message, result.message), result.message
        assert result.message.startswith(f'{repo} at ')


def test_weights_that_are_no_numbers(client, server, pushed, tmp_path):
    code = """
import warnings
model.layer3[1].bn2.bias.data[4] = float('inf')
push(model, 'ann/infinite')
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    timm_se50.pull_from_hub('ann/infinite', cache_dir=cache)
    timm_se50.download_checkpoint('ann/infinite', cache_dir=cache)
out = [str(w.message) for w in caught if 'infinity' in str(w.message)]
"""
    found = client.good(code, cache=tmp_path)
    assert len(found) == 2
    assert all("'layer3.1.bn2.bias' holds NaN or infinity" in text for text in found)


def test_offline_a_file_that_cannot_be_verified_stays(client, server, pushed, tmp_path):
    client.good(PULL, repo='ann/model', cache=tmp_path)
    entry = next(tmp_path.rglob('snapshots/*/model.safetensors'))
    other = entry.resolve().with_name('f' * 64)  # as where a server names files by something else
    os.rename(entry.resolve(), other)
    entry.unlink()
    entry.symlink_to(other)
    offline = 'huggingface_hub.constants.HF_HUB_OFFLINE = True\n'
    result = client.run(offline + PULL, repo='ann/model', cache=tmp_path)
    assert 'cannot be verified offline: the cache names it ffff' in result.message, result.log
    assert other.exists()
    assert client.good(PULL, repo='ann/model', cache=tmp_path) == pushed['digest']


def test_a_head_of_other_classes_is_new_only_if_asked_for(client, push_files, files, server, tmp_path):
    code = 'm = timm_se50.pull_from_hub(repo, cache_dir=cache, **more)\nout = [m.num_classes, digest(m.layer4)]'
    same = client.good(code, repo='ann/model', cache=tmp_path, more={})
    assert client.good(code, repo='ann/model', cache=tmp_path, more={'num_classes': 7}) == [7, same[1]]


def test_other_repos_stay(client, server, files, push_files, tmp_path):
    """The hash of a file is all that says what it is: its name in another repo's cache is not touched."""
    repo = push_files({name: replace(file) for name, file in files.items()})
    client.good(PULL, repo='ann/model', cache=tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'models--ann--model').rglob('*')}
    client.good(PULL, repo=repo, cache=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / 'models--ann--model').rglob('*')} == before
