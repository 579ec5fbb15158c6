"""The commands push and pull, as a user types them, and what takes a Hub id."""
import json
import re

import pytest
import timm
import torch
from click.testing import CliRunner

from timm_se50.cli.main import main


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    return result.exit_code, result.output


def test_push_and_pull_a_folder(server, local, tmp_path):
    code, output = run('push', local, 'ann/cli', '--private', '--message', 'From the shell', '-q')
    assert code == 0, output
    repo = server.repos['ann/cli']
    assert repo.private
    url, warning = output.splitlines()
    assert url == f'{server.url}/ann/cli/commit/{repo.refs["main"]}'
    assert f'{local}/README.md was not sent' in warning
    assert repo.messages == ['initial', 'From the shell']
    code, output = run('push', local, 'ann/cli', '--create-pr', '--overwrite-card', '-q')
    assert (code, 'holds the same already; no commit was made.\n' in output) == (0, True)

    assert run('pull', 'ann/cli', tmp_path / 'm', '--revision', repo.refs['main'], '-q') == (0, f'{tmp_path / "m"}\n')
    for name in ('model.safetensors', 'config.json'):
        assert (tmp_path / 'm' / name).read_bytes() == (local / name).read_bytes()


def test_dry_run_of_a_checkpoint_of_train_py(server, tmp_path):
    card = tmp_path / 'card.json'
    card.write_text(json.dumps({'recipe': {'epochs': 2}, 'base_model': None}))
    model = timm.create_model('se_resnet50_patch', num_classes=5, se_stages=(4,))
    saver = timm.utils.CheckpointSaver(model, torch.optim.SGD(model.parameters(), 0.1), checkpoint_dir=str(tmp_path),
                                       recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, 1.0)
    code, output = run(
        'push', 'se_resnet50_patch', 'ann/dry', '--checkpoint', tmp_path / 'last.pth.tar', '--card', card,
        '--model-kwargs', 'num_classes=5', '--model-kwargs', 'se_stages=(4,)', '--dry-run')
    assert code == 0, output
    assert re.search(r'^ +\d+,\d{3},\d{3} bytes  model.safetensors$', output, re.MULTILINE)
    assert '- epochs: 2' in output
    assert '- **Classes:** 5' in output
    assert 'base_model' not in output
    assert server.log == []


def test_info_of_a_hub_id(server, local):
    of_hub, of_folder = (run('info', name, '--size', '32', '--json') for name in ('hf-hub:ann/model', local))
    assert of_hub[0] == 0, of_hub[1]
    assert json.loads(of_hub[1]) == json.loads(of_folder[1])


@pytest.mark.parametrize(('args', 'message'), [
    (['pull', 'ann/none', 'here', '-q'], r'Error: 404 Client Error.*Repository Not Found for url: \S+/ann/none'),
    (['push', 'se_resnet50_patch', 'a/b', '--model-kwargs', 'x', '--dry-run'], "'x': expected KEY=VALUE"),
    (['push', '{local}', 'a/b', '--checkpoint', '{local}/model.safetensors', '--dry-run'], 'holds weights of its own'),
    (['push', 'se_resnet50_patch', 'a/b', '--model-kwargs', 'a={{[]:1}}', '--dry-run'], "unexpected .* argument 'a'"),
    (['push', '{local}', 'ann/dry/run', '--dry-run'], "'namespace/repo_name': 'ann/dry/run'"),
    (['push', 'resnet_50', 'a/b', '--dry-run'], r'Unknown model \(resnet_50\)'),
    (['push', '{local}', 'a/b', '--portable', '--dry-run'], 'Error: portable=True: .* leave portable out'),
    (['push', '{local}', 'a/b', '--card', '{local}/README.md', '--dry-run'], 'Expected a JSON object with keys of'),
])
def test_an_error_is_one_line(args, message, server, local):
    code, output = run(*(arg.format(local=local) for arg in args))
    assert code == 1
    assert re.search(message, output), output
    assert output.startswith('Error: ')
    assert len(output.splitlines()) == 1
