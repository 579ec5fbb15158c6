"""docs/hub.md as it stands, its Python and its commands, and the Hub's part of docs/api.md, on a loopback Hub."""
import re
import shlex
import textwrap
from pathlib import Path

import pytest
from hub_repos import File, Repo
from test_hub_cli import run

DOCS = Path(__file__).parents[2] / 'docs'
TEXT = (DOCS / 'hub.md').read_text()


@pytest.fixture
def weights(server, plain50_file):
    """The weights of timm's that the page starts from, on the Hub."""
    name = 'timm/resnet50.tv2_in1k'
    server.hub.repos[name] = Repo(name)
    server.hub.repos[name].commit('main', {'model.safetensors': File(plain50_file.read_bytes())}, 'weights')
    yield
    del server.hub.repos[name]


def test_python(client, server, weights):
    first, second = re.findall(r'(?ms)^```python\n(.*?)^```', TEXT.replace('USER/NAME', 'ann/docs'))
    [deeper] = re.findall(r'(?ms)^  ```python\n(.*?)^  ```', TEXT.replace('USER/', 'ann/'))
    offline = textwrap.dedent(deeper).replace("d', pretrained=True", "d', channels=(16, 16, 16, 16)")
    assert client.good(f'{offline}\nout = len(timm_se50.se_parameters(model))') == 4 * 33
    out = client.good(f'{first}\npushed = model\n{second}\nout = [digest(pushed), model.num_classes]')
    files = server.hub.repos['ann/docs'].commits[server.hub.repos['ann/docs'].refs['main']]
    assert b'lamb' in files['README.md'].content
    assert out == [client.good("out = pull('ann/docs', None)"), 10]


def test_python_interface(client, server, tmp_path):
    text = (DOCS / 'api.md').read_text().partition('\n## The Hugging Face Hub\n')[2]
    snippet, = re.findall(r'```python\n(.*?)```', text.replace('USER/NAME', 'ann/api'), re.DOTALL)
    client.good(f'''
os.chdir(folder)
model = pushed_model = timm.create_model('se_resnet50_patch', num_classes=2)
{snippet}
assert digest(model) == digest(pushed_model)
''', folder=tmp_path)
    assert (tmp_path / 'a-folder' / 'model.safetensors').exists()


def test_commands(client, server, local, tmp_path):
    commands = re.findall(
        r'^    (timm-se50 (?:.*\\\n)*.*)$', TEXT.replace('USER/NAME', 'ann/docs-shell'), re.MULTILINE)
    assert len(commands) == 4
    (tmp_path / 'card.json').write_text('{"recipe": {"epochs": 30}}')
    client.good("""
model = timm.create_model('se_resnet50_patch', num_classes=3)
torch.save({'state_dict': model.state_dict()}, folder + '/model_best.pth.tar')
""", folder=tmp_path)
    names = {'FOLDER': local, 'output/train/RUN/model_best.pth.tar': tmp_path / 'model_best.pth.tar',
             'card.json': tmp_path / 'card.json'}
    for command in commands:
        if ' pull ' in command:
            names['FOLDER'] = tmp_path / 'pulled'
        arguments = shlex.split(command.replace('\\\n', ''), comments=True)[1:]
        code, output = run(client, *[names.get(a, a) for a in arguments])
        assert code == 0, output
    assert (tmp_path / 'pulled' / 'model.safetensors').exists()
