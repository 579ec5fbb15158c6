"""The house as it is meant to stand: a core that reads in one sitting and needs no wing, rooms of a size."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import in_forks

import timm_se50

PACKAGE = Path(__file__).parents[1] / 'timm_se50'
WINGS = ('checkpoint', 'cli', 'gates', 'hub', 'inference', 'memory_efficient', 'param_groups')

# The main job of the core: both models, both routes, loading, a training step
JOB = '''
import timm, torch
import timm_se50
from timm_se50 import SEConfig, patch_blocks_, replace_blocks_, se_parameters

small = dict(layers=(1, 1, 1, 1), channels=(32, 32, 64, 128), num_classes=5)
plain = timm.create_model('resnet50', **small, zero_init_last=False).eval()
x = torch.randn(2, 3, 32, 32)
for name in ('se_resnet50_replace', 'se_resnet50_patch'):
    model = timm.create_model(name, **small).eval()
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(x), plain(x))
for insert_ in (replace_blocks_, patch_blocks_):
    model = timm.create_model('resnet50', **small)
    model.load_state_dict(plain.state_dict())
    insert_(model, SEConfig(reduction=8)).eval()
    assert torch.equal(model(x), plain(x))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(x).square().sum().backward()
    optimizer.step()
    assert all(p.any() for n, p in model.named_parameters() if 'fc2.weight' in n)
'''


def run(code, **env):
    return subprocess.run([sys.executable, '-W', 'error::RuntimeWarning', '-c', code], capture_output=True, text=True,
                          cwd=PACKAGE.parent, env={**os.environ, **env})


def without(*wings):
    """The main job where these wings cannot be imported, and proof that they cannot."""
    return f'''
import sys
for wing in {wings}:
    sys.modules['timm_se50.' + wing] = None
{JOB}
try:
    import timm_se50.{wings[0]}
except ModuleNotFoundError:
    pass
else:
    raise AssertionError('the wing was not blocked, so this test showed nothing')
'''


def test_the_core_works_without_any_wing_and_without_each():
    cases = {'every wing': without(*WINGS), **{wing: without(wing) for wing in WINGS}}
    done = run(in_forks('import timm', cases), TIMM_SE50_AUTOLOAD='0')
    assert (done.returncode, done.stderr) == (0, '')


def test_the_core_reads_in_one_sitting():
    """All lines of all modules that timm comes to import: no wing's, and few."""
    done = run('''
import sys, timm
print(*(m.__file__ for name, m in sys.modules.items() if name.split(".")[0] == "timm_se50"), sep="\\n")''')
    files = [Path(file) for file in done.stdout.split()]
    assert PACKAGE / 'surgery.py' in files, done.stderr
    assert not {file.relative_to(PACKAGE).parts[0].removesuffix('.py') for file in files} & set(WINGS)
    assert sum(len(file.read_text().splitlines()) for file in files) <= 1100


def test_the_face_hands_on_every_name():
    for name in timm_se50.__all__:
        getattr(timm_se50, name)
    assert set(timm_se50.__all__) <= set(dir(timm_se50))


@pytest.mark.parametrize('path', [p for p in PACKAGE.rglob('*.py')], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_is_much_over_200_lines(path):
    assert len(path.read_text().splitlines()) <= 210


def test_private_names_of_pytorch_are_in_one_file():
    private = re.compile(r'\btorch\.([a-z]+\.)*_[a-zA-Z]')
    found = {path.name for path in PACKAGE.rglob('*.py') if private.search(path.read_text())}
    assert found == {'torch_internals.py'}
