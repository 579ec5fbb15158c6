"""docs/hub.md as it stands, its Python and its commands, and the Hub's part of docs/api.md, on a loopback Hub."""
import re
import shlex
import textwrap
from pathlib import Path

import timm
import torch
from helpers import changed
from hub_api import Repo
from test_hub_cli import run

import timm_se50

DOCS = Path(__file__).parents[2] / 'docs'
TEXT = (DOCS / 'hub.md').read_text()


def test_python(server, plain50_file):
    server.repos['timm/resnet50.tv2_in1k'] = Repo()  # which the page starts from
    server.repos['timm/resnet50.tv2_in1k'].commit({'model.safetensors': plain50_file.read_bytes()})
    first, second = re.findall(r'(?ms)^```python\n(.*?)^```', TEXT.replace('USER/NAME', 'ann/docs'))
    names = {}
    exec(first, names)
    pushed = names['model'].state_dict()
    assert b'lamb' in server.repos['ann/docs'].files['README.md']
    assert changed(timm_se50.pull_from_hub('ann/docs'), pushed) == []
    exec(second, names)
    assert names['model'].num_classes == 10
    [deeper] = re.findall(r'(?ms)^  ```python\n(.*?)^  ```', TEXT.replace('USER/', 'ann/'))
    names = dict(timm=timm, timm_se50=timm_se50)
    exec(textwrap.dedent(deeper).replace("d', pretrained=True", "d', channels=(16, 16, 16, 16)"), names)
    assert len(timm_se50.se_parameters(names['model'])) == 4 * 33


def test_python_interface(server, model, tmp_path, monkeypatch):
    text = (DOCS / 'api.md').read_text().partition('\n## The Hugging Face Hub\n')[2]
    snippet, = re.findall(r'```python\n(.*?)```', text.replace('USER/NAME', 'ann/api'), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = dict(timm=timm, timm_se50=timm_se50, model=model.float())
    exec(snippet, names)
    assert changed(names['model'], model.state_dict()) == []
    assert (tmp_path / 'a-folder' / 'model.safetensors').exists()


def test_commands(server, local, tmp_path):
    commands = re.findall(
        r'^    (timm-se50 (?:.*\\\n)*.*)$', TEXT.replace('USER/NAME', 'ann/docs-shell'), re.MULTILINE)
    assert len(commands) == 4
    (tmp_path / 'card.json').write_text('{"recipe": {"epochs": 30}}')
    model = timm.create_model('se_resnet50_patch', num_classes=3)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model_best.pth.tar')
    names = {'FOLDER': local, 'output/train/RUN/model_best.pth.tar': tmp_path / 'model_best.pth.tar',
             'card.json': tmp_path / 'card.json'}
    for command in commands:
        if ' pull ' in command:
            names['FOLDER'] = tmp_path / 'pulled'
        arguments = shlex.split(command.replace('\\\n', ''), comments=True)[1:]
        code, output = run(*[names.get(a, a) for a in arguments])
        assert code == 0, output
    assert (tmp_path / 'pulled' / 'model.safetensors').exists()
