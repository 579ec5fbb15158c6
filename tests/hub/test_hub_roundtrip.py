"""A model to the Hub and back: everything that went there comes back, in one commit."""
import copy

import pytest
import timm
import torch
from helpers import changed, shake_
from hub_server import TOKEN

from timm_se50 import CardConfig, download_checkpoint, pull_from_hub, push_to_hub
from timm_se50.checkpoint import se_config


def train_(model):
    """Make it another one."""
    with torch.no_grad():
        model.fc.bias += 1


def test_all_settings_come_back(server, model, local, weights):
    """By timm's own function too."""
    pushed = push_to_hub(model, 'ann/new', label_names=['cat', 'dog', 'eel'])
    pinned = f'ann/new@{pushed.commit}'
    expected = timm.create_model(f'local-dir:{local}', pretrained=True).pretrained_cfg
    for found, hub_id in [
            (timm.create_model('hf-hub:ann/new', pretrained=True), 'ann/new'),
            (timm.create_model(f'hf-hub:{pinned}', pretrained=True), pinned),
            (pull_from_hub('ann/new'), pinned), (pull_from_hub(pinned), pinned)]:
        assert changed(found, weights) == []
        assert str(se_config(found)) == "SEConfig(reduction=(8, 32), stages=(3, 4), position='identity')"
        cfg = found.pretrained_cfg
        assert (cfg['source'], cfg['hf_hub_id']) == ('hf-hub', hub_id)
        for key in ('num_classes', 'input_size', 'mean', 'std', 'label_names', 'license', 'architecture'):
            assert cfg[key] == expected[key]


def test_a_new_head_and_other_channels(server):
    options = dict(num_classes=5, in_chans=3, drop_path_rate=0.1)
    ours, timms = pull_from_hub('ann/model', pretrained=True, **options), timm.create_model(
        'hf-hub:ann/model', pretrained=True, **options)
    assert (ours.fc.out_features, ours.conv1.in_channels, str(ours)) == (5, 3, str(timms))
    timms.fc = ours.fc = torch.nn.Identity()  # the new head is random
    assert changed(ours, timms.state_dict()) == []
    x = torch.randn(1, 1, 64, 64)
    features = pull_from_hub('ann/model', features_only=True).eval()(x)
    assert torch.equal(features[-1], pull_from_hub('ann/model').eval().forward_features(x))
    with pytest.raises(ValueError, match='the weights are those of the repo'):
        pull_from_hub('ann/model', checkpoint_path='model.pth')


def test_one_commit_a_push_and_a_card_on_the_hub_is_kept(server, model):
    card = CardConfig(recipe={'epochs': 3})
    first, kept = push_to_hub(model, 'ann/second'), push_to_hub(model, 'ann/second', card=card)
    train_(model)
    third, same = (push_to_hub(model, 'ann/second', card=card, overwrite_card=True, commit_message='Train on')
                   for _ in range(2))
    assert server.requests('put', 'commit') == (2, 2)
    repo = server.repos['ann/second']
    files = repo.commits[first.commit]
    assert first.files == {name: len(content) for name, content in files.items() if name != '.gitattributes'}
    assert list(first.files) == ['model.safetensors', 'config.json', 'README.md']
    assert files['README.md'].decode() == first.card
    assert repo.messages == ['initial', 'Add model', 'Train on']
    assert [p.changed for p in (first, kept, third, same)] == [True, False, True, False]
    assert first.commit == kept.commit != third.commit == same.commit == repo.refs['main']
    assert b'epochs: 3' not in files['README.md']
    assert b'- epochs: 3' in repo.files['README.md']


def test_branch_pull_request_private_and_dry_run(server, model, monkeypatch):
    repo = server.repos['ann/model']
    main = repo.refs['dev'] = repo.refs['main']
    dry = push_to_hub(model, 'ann/new', dry_run=True, token=False)
    assert (dry.commit, server.log) == (None, [])
    private = push_to_hub(model, 'new', private=True)
    assert (private.repo_id, server.repos['ann/new'].private) == ('ann/new', True)
    train_(model)
    branch = push_to_hub(model, 'ann/model', revision='dev', commit_message='try')
    train_(model)
    pull_request = push_to_hub(model, 'ann/model', create_pr=True, token=TOKEN)
    assert repo.refs == {'main': main, 'dev': branch.commit, 'refs/pr/1': pull_request.commit}
    assert pull_request.url == f'{server.url}/ann/model/discussions/1'
    with pytest.raises(ValueError, match='ann/model is public, and private=True was asked for; nothing was sent'):
        push_to_hub(model, 'ann/model', private=True)
    with pytest.raises(OSError, match=r'(?s)Revision Not Found .*/revision/x'):
        push_to_hub(model, 'ann/model', revision='x')
    monkeypatch.delenv('HF_TOKEN')
    for token in (False, None):
        with pytest.raises(PermissionError, match='needs an access token'):
            push_to_hub(model, 'ann/model', token=token)


def test_no_token_where_none_is_needed(server, weights, monkeypatch):
    monkeypatch.delenv('HF_TOKEN')
    assert changed(pull_from_hub('ann/model'), weights) == []
    assert {token for _, _, token in server.log} == {None}
    server.log.clear()
    download_checkpoint('ann/model', token=TOKEN)
    assert {token for _, _, token in server.log} == {f'Bearer {TOKEN}'}


def test_config_and_weights_come_from_one_commit(server, weights):
    """A push between the requests of a pull changes nothing for it."""
    other = timm.create_model('se_resnet50_patch', num_classes=2, layers=(1, 1, 1, 1), channels=(16, 16, 16, 16))
    repo, first = server.repos['ann/model'], server.repos['ann/model'].refs['main']
    push_to_hub(other, 'ann/other')
    server.hooks['get'] = lambda: repo.commit(server.repos['ann/other'].files)
    assert changed(pull_from_hub('ann/model'), weights) == []
    assert changed(pull_from_hub('ann/model'), other.state_dict()) == []
    assert changed(pull_from_hub(f'ann/model@{first}'), weights) == []


def test_portable_is_a_model_of_timms(server, images):
    model = shake_(timm.create_model('se_resnet50_replace', num_classes=3, layers=(1, 1, 1, 1))).eval()
    push_to_hub(copy.deepcopy(model), 'ann/portable', portable=True, label_names=['x', 'y', 'z'])
    for found in (pull_from_hub('ann/portable'), timm.create_model('hf-hub:ann/portable', pretrained=True)):
        assert type(found).__module__ == type(found.layer1[0]).__module__ == 'timm.models.resnet'
        assert found.pretrained_cfg['label_names'] == ['x', 'y', 'z']
        with torch.no_grad():
            assert torch.equal(found.eval()(images), model(images))
