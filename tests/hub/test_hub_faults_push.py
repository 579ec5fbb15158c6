"""A push while things go wrong: one right commit or a clear error, and a plain second call succeeds."""
import re

import pytest
from hub_helpers import in_repo, no_more_faults, requests, run_all
from hub_repos import File
from hub_server import Fault

PUSH = """
model.fc.bias.data += number
out = push(model, repo, **options)
"""
OVERCOME = {
    'create 503': [Fault('create', 'status')],
    'create lost': [Fault('create', 'lost')],
    'info 429': [Fault('info', 'status', status=429)],
    'card check 503': [Fault('yaml', 'status')],
    'preupload 429': [Fault('preupload', 'status', status=429)],
    'preupload 500': [Fault('preupload', 'status', status=500)],
    'preupload 503': [Fault('preupload', 'status')],
    'batch 503': [Fault('batch', 'status')],
    'preupload no JSON': [Fault('preupload', 'answer', body=b'[{')],
    'preupload cut': [Fault('preupload', 'fin')],
    'batch no JSON': [Fault('batch', 'answer', body=b'<html>')],
    'batch of another form': [Fault('batch', 'answer', body=b'{}')],
    'upload flipped': [Fault('put', 'flip')],
    'PUT 429': [Fault('put', 'status', status=429)],
    'PUT 500': [Fault('put', 'status', status=500)],
    'PUT 503': [Fault('put', 'status')],
    'PUT cut, FIN': [Fault('put', 'fin')],
    'PUT cut, RST': [Fault('put', 'rst')],
    'commit 429': [Fault('commit', 'status', status=429)],
    'commit 500': [Fault('commit', 'status', status=500)],
    'commit 503': [Fault('commit', 'status')],
    'commit cut': [Fault('commit', 'rst')],
    'answer to commit lost': [Fault('commit', 'lost')],
}
REFUSED = {  # what goes wrong, what the error says, and how many commits there are after it
    'upload always flipped': ([Fault('put', 'flip', times=100)], 'answered 400: BadDigest', 1),
    'commit always flipped': (
        [Fault('commit', 'flip', times=100)], r'does not hold what was sent: (README\.md|config\.json)', 3),
    'commit always 503': ([Fault('commit', 'status', times=100)], 'answered 503 again and again; try later', 1),
    'commit always cut': ([Fault('commit', 'fin', times=100)], r'The connection to http://127\S+ failed', 1),
}


def test_each_is_overcome_or_named_and_then_over(server, client):
    """Each with a repo and weights of its own; one test, for they all wait at once."""
    cases = [*OVERCOME, *REFUSED]
    repos = {case: f'ann/push-{i:02}' for i, case in enumerate(cases)}
    named = {case: OVERCOME[case] if case in OVERCOME else REFUSED[case][0] for case in cases}

    def run(case):
        given = dict(repo=repos[case], number=cases.index(case) + 10, options={})
        first = client.run(PUSH, **given)
        repo = server.hub.repos[repos[case]]
        commits = len(repo.messages) - 1
        no_more_faults(server, repos[case])
        again = case in REFUSED or case == 'answer to commit lost'
        return first, commits, client.run(PUSH, **given) if again else None, repo

    for case, repo in repos.items():
        if not case.startswith(('create', 'card')):
            server.faults += in_repo(repo, named[case])
    results = run_all(run, [c for c in cases if not c.startswith(('create', 'card'))])
    for case in ('create 503', 'create lost', 'card check 503'):  # their paths name no repo
        server.faults = named[case]
        results[case] = run(case)
    assert not [fault for fault in server.faults if fault.times]
    for case in OVERCOME:
        first, commits, second, repo = results[case]
        assert first.error is None, (case, first.log)
        assert commits == 1, case
        assert second is None or second.out['changed'] is False, case
        assert first.out['commit'] == repo.refs['main'], case
        check_repo(case, repo, first, server)
    for case, (_, said, expected) in REFUSED.items():
        first, commits, second, repo = results[case]
        assert first.error, case
        assert re.search(said, first.message), (case, first.log)
        assert commits == expected - 1, case
        assert second.error is None, (case, second.log)
        check_repo(case, repo, second, server)


def check_repo(case, repo, pushed, server):
    """Its newest commit holds what was pushed, and all of it."""
    files = repo.commits[pushed.out['commit']]
    assert files['model.safetensors'].sha256 in server.hub.lfs, case
    if case != 'commit always flipped':  # a card that is on the Hub is kept, a damaged one too
        assert pushed.out['changed'], case
        assert {n: f.size for n, f in files.items() if n != '.gitattributes'} == pushed.out['files'], case
        assert files['README.md'].content.decode() == pushed.out['card'], case


@pytest.mark.thorough
def test_what_the_client_has_repeated_is_not_repeated(server, client, pushed, tmp_path):
    server.faults = [Fault('put', 'status', times=100), Fault('get_lfs', 'status', times=100)]
    assert 'answered 503 again and again' in client.run(PUSH, repo='ann/never', number=99, options={}).message
    assert 'answered 503 again and again' in client.run(
        'timm_se50.download_checkpoint(repo, cache_dir=cache)', repo='ann/model', cache=tmp_path).message
    puts, gets = requests(server, 'put', 'get_lfs')
    assert puts == 6
    assert 4 <= gets <= 6
    server.faults = []


def test_a_flipped_commit_is_mended_by_another(client, server, pushed):
    server.faults = [Fault('commit', 'flip')]
    done = client.good(PUSH, repo='ann/mended', number=45, options={})
    repo = server.hub.repos['ann/mended']
    assert len(repo.messages) == 3
    assert repo.commits[repo.refs['main']]['README.md'].content.decode() == done['card']
    assert client.good(PUSH, repo='ann/mended', number=45, options={})['changed'] is False


def test_a_pull_request_whose_answer_got_lost_is_not_opened_twice(client, server, pushed):
    server.faults = [Fault('commit', 'lost')]
    result = client.run(PUSH, repo='ann/model', number=40, options={'create_pr': True})
    assert 'ConnectionError' in result.error, result.log
    assert 'may have been opened. Look at' in result.message
    assert requests(server, 'commit') == (1,)


def test_someone_else_was_faster(client, server, pushed):
    """Their config and our weights must not end up in one commit."""
    repo = server.hub.repos['ann/model']
    files = repo.commits[pushed['commit']]
    server.hooks['commit'] = lambda: repo.commit('main', files | {'config.json': File(b'{}')}, 'theirs')
    try:
        result = client.run(PUSH, repo='ann/model', number=41, options={})
        assert 'ann/model changed during the push' in result.message, result.log
        assert 'Nothing was overwritten; push again' in result.message
        assert repo.messages[-1] == 'theirs'
        assert client.good(PUSH, repo='ann/model', number=41, options={})['changed']
    finally:
        repo.refs['main'] = pushed['commit']


def test_a_gitignore_that_hides_the_weights(client, server, pushed):
    server.hub.ignored.add('model.safetensors')
    try:
        result = client.run(PUSH, repo='ann/ignored', number=43, options={})
    finally:
        server.hub.ignored.clear()
    assert re.search(r'The \.gitignore of ann/ignored leaves out model\.safetensors', result.message), result.log
    assert server.hub.repos['ann/ignored'].messages == ['initial']


def test_interrupted(client, server, pushed):
    server.faults = [Fault('put', 'stall')]
    job = client.start(PUSH, repo='ann/stopped', number=42, options={})
    while not requests(server, 'put')[0]:
        assert not (job.folder / 'result').exists(), job.wait().log
    job.interrupt()
    assert job.wait().error[0] == 'KeyboardInterrupt'
    assert server.hub.repos['ann/stopped'].messages == ['initial']
    assert client.good(PUSH, repo='ann/stopped', number=42, options={})['changed']


def test_disk_full(client, server, pushed):
    limited = 'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, -1))\n'
    result = client.run(limited + PUSH, repo='ann/full', number=44, options={})
    assert 'OSError' in result.error, result.log
    assert 'model.safetensors could not be written to' in result.message
    assert server.log == []
