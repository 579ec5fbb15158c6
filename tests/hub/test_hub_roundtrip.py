"""A model to the Hub and back: everything that went there comes back, in one commit."""
from hub_client import Client
from hub_helpers import requests
from hub_repos import File

LOAD = """
model = timm.create_model('local-dir:' + local, pretrained=True).eval()
models = [timm.create_model('hf-hub:' + name, pretrained=True, cache_dir=cache).eval() for name in names]
models += [timm_se50.pull_from_hub(name, cache_dir=cache).eval() for name in names]
x = torch.rand(2, 1, 64, 64)
with torch.no_grad():
    want = model(x)
    assert want.isfinite().all() and len(want.unique()) == 6
    assert all(torch.equal(model(x), want) for model in models)
keys = ('num_classes', 'input_size', 'mean', 'std', 'label_names', 'license', 'architecture', 'hf_hub_id', 'source')
out = [[str(timm_se50.checkpoint.se_config(m)), {k: m.pretrained_cfg.get(k) for k in keys}] for m in models]
"""


def test_all_settings_come_back_in_a_fresh_process(client, server, pushed, local, tmp_path):
    pinned = f'ann/model@{pushed["commit"]}'
    found = client.good(LOAD, local=local, names=['ann/model', pinned], cache=tmp_path)
    for (se, cfg), hub_id in zip(found, ['ann/model', pinned, pinned, pinned]):
        assert se == "SEConfig(reduction=(8, 32), stages=(3, 4), position='identity')"
        assert cfg == {
            'num_classes': 3, 'input_size': [1, 176, 176], 'mean': [0.25], 'std': [0.5], 'source': 'hf-hub',
            'label_names': ['cat', 'dog', 'eel'], 'license': 'bsd-3-clause', 'architecture': 'se_resnet50_patch',
            'hf_hub_id': hub_id}


def test_a_new_head_and_other_channels(client, server, pushed, tmp_path):
    code = """
options = dict(num_classes=5, in_chans=3, drop_path_rate=0.1, cache_dir=cache)
timms = timm.create_model('hf-hub:ann/model', pretrained=True, **options)
ours = timm_se50.pull_from_hub('ann/model', pretrained=True, **options)
out = [ours.fc.out_features, ours.conv1.in_channels, str(timms) == str(ours)]
timms.fc = ours.fc = torch.nn.Identity()  # the new head is random
out = [digest(timms), digest(ours), *out]
"""
    timms, ours, *rest = client.good(code, cache=tmp_path)
    assert timms == ours
    assert rest == [5, 3, True]
    code = """
x = torch.randn(1, 1, 64, 64)
features = timm_se50.pull_from_hub('ann/model', cache_dir=cache, features_only=True).eval()(x)
out = torch.equal(features[-1], timm_se50.pull_from_hub('ann/model', cache_dir=cache).eval().forward_features(x))
"""
    assert client.good(code, cache=tmp_path)
    result = client.run("timm_se50.pull_from_hub('ann/model', checkpoint_path='model.pth')")
    assert 'the weights are those of the repo' in result.message


def test_one_commit_a_push_and_a_card_on_the_hub_is_kept(client, server, pushed):
    code = """
model.fc.bias.data += 1
card = timm_se50.CardConfig(recipe={'epochs': 3})
out = [push(model, 'ann/second'), push(model, 'ann/second', card=card)]
model.fc.bias.data += 1
out += [push(model, 'ann/second', card=card, overwrite_card=True, commit_message='Train on', quiet=True)]
out += [push(model, 'ann/second', card=card, overwrite_card=True)]
"""
    first, kept, third, same = client.good(code)
    assert requests(server, 'put', 'commit') == (2, 2)
    repo = server.hub.repos['ann/second']
    files = repo.commits[first['commit']]
    assert sorted(files) == ['.gitattributes', 'README.md', 'config.json', 'model.safetensors']
    assert first['files'] == {name: file.size for name, file in files.items() if name != '.gitattributes'}
    assert files['README.md'].content.decode() == first['card']
    assert repo.messages == ['initial', 'Add model', 'Train on']
    assert [p['changed'] for p in (first, kept, third, same)] == [True, False, True, False]
    assert first['commit'] == kept['commit'] != third['commit'] == same['commit'] == repo.refs['main']
    assert b'epochs: 3' not in repo.commits[first['commit']]['README.md'].content
    assert b'- epochs: 3' in repo.commits[third['commit']]['README.md'].content


def test_branch_pull_request_private_and_dry_run(client, server, pushed):
    repo = server.hub.repos['ann/model']
    repo.refs['dev'] = repo.resolve(pushed['commit'])
    code = """
out = push(model, 'ann/new', dry_run=True, token=False)
out = [out, push(model, 'new', private=True)]
model.fc.bias.data += 3
out += [push(model, 'ann/model', revision='dev', commit_message='try')]
model.fc.bias.data += 3
out += [push(model, 'ann/model', create_pr=True, token='hf_annwrite')]
"""
    dry, private, branch, pull_request = client.good(code)
    assert dry['commit'] is None
    assert list(dry['files']) == ['model.safetensors', 'config.json', 'README.md']
    assert server.hub.repos['ann/new'].private
    assert private['repo_id'] == 'ann/new'
    assert repo.refs['main'] == pushed['commit']
    assert repo.refs['dev'] == branch['commit']
    url, _, number = pull_request['url'].rpartition('/')
    assert url == f'{server.url}/ann/model/discussions'
    assert repo.refs[f'refs/pr/{number}'] == pull_request['commit']
    result = client.run("push(model, 'ann/model', private=True)")
    assert 'ann/model is public, and private=True was asked for; nothing was sent' in result.message


def test_config_and_weights_come_from_one_commit(client, server, pushed, tmp_path):
    """A push between the requests of a pull changes nothing for it."""
    other = client.good("""
model = timm.create_model('se_resnet50_patch', num_classes=2, se_stages=(4,), se_position='pre').bfloat16()
out = push(model, 'ann/other', overwrite_card=True)
""")
    repo = server.hub.repos['ann/model']
    later = repo.commits[pushed['commit']] | server.hub.repos['ann/other'].commits[other['commit']]
    server.hooks['get'] = lambda: repo.commit('main', later, 'meanwhile')
    try:
        assert client.good("out = pull('ann/model', cache)", cache=tmp_path) == pushed['digest']
        assert client.good("out = pull('ann/model', cache)", cache=tmp_path) == other['digest']
        name = f'ann/model@{pushed["commit"]}'
        assert client.good('out = pull(name, cache)', name=name, cache=tmp_path) == pushed['digest']
    finally:
        repo.refs['main'] = pushed['commit']


def test_portable_loads_with_timm_alone(client, server, tmp_path):
    code = """
model = timm.create_model('se_resnet50_replace', num_classes=3)
push(model, 'ann/portable', portable=True, label_names=['x', 'y', 'z'])
x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
pulled = timm_se50.pull_from_hub('ann/portable', cache_dir=cache)
with torch.no_grad():
    assert torch.equal(pulled.eval()(x), model.eval()(x))
    out = model(x).tolist()
"""
    logits = client.good(code, cache=tmp_path)
    bare = Client(server.url, setup='', plugin=False)
    code = """
import importlib.util
assert importlib.util.find_spec('timm_se50') is None
model = timm.create_model('hf-hub:ann/portable', pretrained=True).eval()
x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
with torch.no_grad():
    out = [type(model).__module__, model.pretrained_cfg['label_names'], model(x).tolist()]
"""
    try:
        assert bare.good(code) == ['timm.models.resnet', ['x', 'y', 'z'], logits]
        refused = bare.run("timm.create_model('hf-hub:ann/model', pretrained=True)")
        assert refused.message == 'Unknown model (se_resnet50_patch)'
    finally:
        bare.close()


def test_a_pickle_is_refused_and_not_even_downloaded(client, server, pushed, tmp_path):
    repo = server.hub.create('pickled', 'ann', False, 'hf_annwrite')
    files = server.hub.repos['ann/model'].commits[pushed['commit']]
    repo.commit('main', {'config.json': files['config.json'], 'pytorch_model.bin': File(b'\x80\x04.')}, 'old')
    server.log.clear()
    result = client.run("pull('ann/pickled', cache)", cache=tmp_path)
    assert 'ann/pickled has no model.safetensors; expected a repo that push_to_hub() made. Pickled' in result.message
    assert requests(server, 'head', 'get') == (0, 0)
    repo.commit('main', files | {'config.json': File(b'{"architecture": "resnet18"}')}, 'another')
    assert "is of a 'resnet18'; expected" in client.run("pull('ann/pickled', cache)", cache=tmp_path).message
