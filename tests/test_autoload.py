"""The models are known to timm though nobody imports the plugin. Each test is a fresh process on an installed wheel."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from helpers import in_forks, pip

ROOT = Path(__file__).parents[1]
thorough, weekly = pytest.mark.thorough, pytest.mark.weekly
MODELS = ['se_resnet50_patch', 'se_resnet50_replace']
KNOWN = f"""
import timm
assert timm.list_models('se_resnet50*') == {MODELS}, timm.list_models('se_resnet50*')
assert all(map(timm.is_model, {MODELS}))
assert 'se_resnet50_patch.a1_in1k' in timm.list_pretrained('se_resnet50_*')
"""
UNKNOWN = "import timm; assert not timm.list_models('se_resnet50*') and not timm.is_model('se_resnet50_patch')"


@pytest.fixture(scope='session')
def site(wheel, tmp_path_factory):
    """A folder that the wheel is installed in, and nothing else."""
    folder = tmp_path_factory.mktemp('site')
    pip('install', '--no-index', '--target', folder, wheel)
    return folder


@pytest.fixture
def python(site, tmp_path):
    """Runs code in a fresh Python that finds the installed wheel; returns what it wrote to stderr."""
    def run(*args, path=(), **env):
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [*path, site])), **env}
        done = subprocess.run(
            [sys.executable, *args], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stderr
    return run


@pytest.mark.parametrize('again', [
    'timm_se50_autoload.autoload()', 'importlib.reload(timm_se50_autoload).autoload()',
    'sys.meta_path.insert(0, Asking())'])
def test_called_twice_or_beside_a_finder_of_its_kind(python, again):
    """Each asks all others, and so the other one."""
    assert python('-W', 'error', '-c', f'''
import importlib, sys, timm_se50_autoload
import torch
class Asking:
    def find_spec(self, name, path=None, target=None):
        if name == 'timm.models':
            return next(filter(None, (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)), None)
timm_se50_autoload.autoload()
{again}
{KNOWN}''') == ''


AGAIN = f"""
import importlib
for name in ('timm.models', 'torch', 'timm_se50', 'timm'):
    importlib.import_module(name)
{KNOWN}"""


@pytest.mark.parametrize('first', [
    'timm', pytest.param('timm_se50', marks=thorough), pytest.param('timm_se50_autoload', marks=weekly)])
def test_known_whatever_is_imported_first(python, first):
    # -W error: a second registration, which timm warns of, would be one
    assert python('-W', 'error', '-c', f'import {first}\n{KNOWN}\n{AGAIN}') == ''


AFTER_TORCH = {
    **{name: f'import {name}\n{KNOWN}\n{AGAIN}' for name in (
        'timm', 'timm.layers', 'timm.models', 'timm.models.resnet', 'timm.data', 'timm_se50', 'timm_se50.surgery')},
    'a look at the spec': f"from importlib.util import find_spec\nassert find_spec('timm.models')\n{KNOWN}",
    "the loader stays timm's own": '''
import inspect, timm.models
from importlib.machinery import SourceFileLoader
assert type(timm.models.__loader__) is SourceFileLoader
assert timm.models.__spec__.loader is timm.models.__loader__
assert 'from .resnet import *' in inspect.getsource(timm.models)''',
    'create_model': f'''
import timm
assert {{type(timm.create_model(m)).__module__ for m in {MODELS}}} == {{'timm_se50.se_resnet50'}}''',
    'timm in a zip, where all modules share one loader': f'''
import sys
sys.path.insert(0, 'timm.zip')
import timm
assert '.zip' in timm.__file__
{KNOWN}''',
}


def test_known_after_torch(python, tmp_path):
    shutil.make_archive(tmp_path / 'timm', 'zip', Path(timm.__file__).parents[1], 'timm')
    first = 'import torch, torchvision, torchvision.models, huggingface_hub'
    assert python('-W', 'error', '-c', in_forks(first, AFTER_TORCH)) == ''


# More of them at once fail in timm and torchvision, with the plugin switched off as well. Not in forks of a process
# that has imported torch: it is in that import too that threads may wait for each other.
@thorough
@pytest.mark.parametrize('together', [['timm'], ['timm', 'timm_se50']])
def test_threads(python, together):
    assert python('-W', 'error', '-c', f"""
import importlib, sys, threading
sys.setswitchinterval(1e-4)
barrier, errors = threading.Barrier({len(together)}), []
def load(name):
    barrier.wait()
    try:
        importlib.import_module(name)
    except BaseException as e:
        errors.append(e)
threads = [threading.Thread(target=load, args=(name,)) for name in {together}]
for t in threads: t.start()
for t in threads: t.join()
assert not errors, errors
{KNOWN}""") == ''


@pytest.mark.parametrize('off', [
    'TIMM_SE50_AUTOLOAD', pytest.param('TORCH_DEVICE_BACKEND_AUTOLOAD', marks=thorough)])
def test_switched_off(python, off):
    assert python('-W', 'error', '-c', f'{UNKNOWN}\nimport timm_se50\n{KNOWN}', **{off: '0'}) == ''


def test_torch_alone_stays_light(python):
    assert python('-c', """
import sys, torch
assert 'timm_se50_autoload' in sys.modules  # the entry point ran
assert not [m for m in sys.modules if m.split('.')[0] in ('timm', 'timm_se50', 'torchvision', 'huggingface_hub')]
""") == ''


@pytest.fixture
def broken(tmp_path):
    """A path with a timm that imports and has nothing that the plugin needs, as one of long ago would."""
    (tmp_path / 'broken' / 'timm' / 'models').mkdir(parents=True)
    (tmp_path / 'broken' / 'timm' / '__init__.py').write_text('import torch\nfrom . import models\n')
    (tmp_path / 'broken' / 'timm' / 'models' / '__init__.py').write_text('')
    return tmp_path / 'broken'


@pytest.mark.parametrize('options', [[], pytest.param(['-W', 'error'], marks=weekly)])
def test_old_timm_is_warned_of_once(python, broken, options):
    code = 'import torch, timm, timm.models, importlib; importlib.reload(timm.models); import torch'
    stderr = python(*options, '-c', code, path=[broken])
    assert stderr.count('timm-se50 could not be loaded') == 1
    for part in ('ModuleNotFoundError', 'timm.models.resnet', 'pip install --upgrade', 'TIMM_SE50_AUTOLOAD=0'):
        assert part in stderr
    assert python(*options, '-c', code, path=[broken], TIMM_SE50_AUTOLOAD='0') == ''


CORE = [path.stem for path in (ROOT / 'timm_se50').glob('*.py')
        if path.stem not in ('__init__', 'param_groups', 'stock', 'torch_internals')] + ['weights']


def test_a_plugin_that_breaks_anywhere_leaves_timm_as_it_was(python):
    """A module of the core lacks what the others look for in it, as after half an update."""
    cases = {module: f"sys.modules['timm_se50.{module}'] = types.ModuleType('timm_se50.{module}')" for module in CORE}
    cases = {case: f"""
import sys, types
{code}
{UNKNOWN}
assert not timm.list_pretrained('se_resnet50*')""" for case, code in cases.items()}
    stderr = python('-c', in_forks('import torch, torchvision, huggingface_hub', cases))
    assert stderr.count('timm-se50 could not be loaded, so timm does not know its models. ImportError') == len(cases)
    assert all(f"from 'timm_se50.{module}'" in stderr for module in CORE)


@pytest.mark.parametrize(('env', 'status', 'finding'), [
    pytest.param({}, 0, 'yes', marks=thorough),
    pytest.param({'TIMM_SE50_AUTOLOAD': '0'}, 1, 'no: the environment has TIMM_SE50_AUTOLOAD=0', marks=thorough),
    pytest.param({'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}, 1, 'no: the environment switches it off', marks=weekly),
])
def test_doctor(site, tmp_path, env, status, finding):
    command = [sys.executable, '-m', 'timm_se50.cli', 'doctor']
    env = {**os.environ, 'PYTHONPATH': str(site), **env}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, '')
    assert f'without an import  {finding}' in done.stdout
    assert 'se_resnet50_patch (23 pretrained tags), se_resnet50_replace (23 pretrained tags)' in done.stdout
    assert f'in {site}' in done.stdout
