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
thorough = pytest.mark.thorough
MODELS = ['se_resnet50_patch', 'se_resnet50_replace']
KNOWN = f"""
import timm
assert timm.list_models('se_resnet50*') == {MODELS}, timm.list_models('se_resnet50*')
assert all(map(timm.is_model, {MODELS}))
assert 'se_resnet50_patch.a1_in1k' in timm.list_pretrained('se_resnet50_*')
"""
UNKNOWN = """
import timm
assert not timm.list_models('se_resnet50*') and not timm.list_pretrained('se_resnet50*')
"""


@pytest.fixture(scope='session')
def site(wheel, tmp_path_factory):
    """A folder that the wheel is installed in, and nothing else."""
    folder = tmp_path_factory.mktemp('site')
    pip('install', '--no-index', '--target', folder, wheel)
    return folder


@pytest.fixture
def python(site, tmp_path):
    """Runs a fresh Python that finds the installed wheel."""
    def run(*args, path=(), **env):
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [*path, site])), **env}
        return subprocess.run(
            [sys.executable, *args], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    return run


@pytest.fixture
def quiet(python):
    """Runs code that is to end well and without a word: a second registration, which timm warns of, would be one."""
    def run(code, **env):
        done = python('-W', 'error', '-c', code, **env)
        assert (done.returncode, done.stderr) == (0, '')
    return run


@pytest.mark.parametrize('again', [
    'importlib.reload(timm_se50_autoload).autoload()', 'sys.meta_path.insert(0, Asking())'])
def test_called_twice_or_beside_a_finder_of_its_kind(quiet, again):
    """Each asks all others, and so the other one."""
    quiet(f'''
import importlib, sys, timm_se50_autoload
import torch
class Asking:
    def find_spec(self, name, path=None, target=None):
        if name == 'timm.models':
            return next(filter(None, (f.find_spec(name, path, target) for f in sys.meta_path if f is not self)), None)
timm_se50_autoload.autoload()
{again}
{KNOWN}''')


@pytest.mark.parametrize('first', ['timm', pytest.param('timm_se50', marks=thorough)])
def test_known_whatever_is_imported_first(quiet, first):
    quiet(f'import {first}\n{KNOWN}\nimport timm.models, torch, timm_se50\n{KNOWN}')


AFTER_TORCH = {
    **{name: f'import {name}\n{KNOWN}' for name in ('timm.layers', 'timm.models.resnet', 'timm_se50.surgery')},
    'a look at the spec': f"from importlib.util import find_spec\nassert find_spec('timm.models')\n{KNOWN}",
    "the loader stays timm's own": '''
import inspect, timm.models
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


def test_known_after_torch(quiet, tmp_path):
    shutil.make_archive(tmp_path / 'timm', 'zip', Path(timm.__file__).parents[1], 'timm')
    quiet(in_forks('import torch, torchvision, torchvision.models, huggingface_hub', AFTER_TORCH))


# More of them at once fail in timm and torchvision, with the plugin switched off as well
@thorough
def test_two_threads(quiet):
    quiet(f"""
import importlib, sys
from concurrent.futures import ThreadPoolExecutor
sys.setswitchinterval(1e-4)
list(ThreadPoolExecutor(2).map(importlib.import_module, ['timm', 'timm_se50']))
{KNOWN}""")


@pytest.mark.parametrize('off', [
    'TIMM_SE50_AUTOLOAD', pytest.param('TORCH_DEVICE_BACKEND_AUTOLOAD', marks=thorough)])
def test_switched_off(quiet, off):
    quiet(f'{UNKNOWN}\nimport timm_se50\n{KNOWN}', **{off: '0'})


def test_torch_alone_stays_light(quiet):
    quiet("""
import sys, torch
assert 'timm_se50_autoload' in sys.modules  # the entry point ran
assert not [m for m in sys.modules if m.split('.')[0] in ('timm', 'timm_se50', 'torchvision', 'huggingface_hub')]
""")


@pytest.mark.parametrize('options', [[], pytest.param(['-W', 'error'], marks=thorough)])
def test_old_timm_is_warned_of_once(python, tmp_path, options):
    """A timm that imports and has nothing that the plugin needs, as one of long ago would."""
    (tmp_path / 'old' / 'timm' / 'models').mkdir(parents=True)
    (tmp_path / 'old' / 'timm' / '__init__.py').write_text('import torch\nfrom . import models\n')
    (tmp_path / 'old' / 'timm' / 'models' / '__init__.py').write_text('')
    code = 'import torch, timm, timm.models, importlib; importlib.reload(timm.models); import torch'
    done = python(*options, '-c', code, path=[tmp_path / 'old'])
    assert done.returncode == 0
    assert done.stderr.count('timm-se50 could not be loaded') == 1
    for part in ('timm.models.resnet', 'pip install --upgrade', 'TIMM_SE50_AUTOLOAD=0'):
        assert part in done.stderr


CORE = [path.stem for path in (ROOT / 'timm_se50').glob('*.py')
        if path.stem not in ('__init__', 'param_groups', 'stock', 'torch_internals')] + ['weights']


def test_a_plugin_that_breaks_anywhere_leaves_timm_as_it_was(python):
    """A module of the core lacks what the others look for in it, as after half an update."""
    cases = {module: f"""
import sys, types
sys.modules['timm_se50.{module}'] = types.ModuleType('timm_se50.{module}')
{UNKNOWN}""" for module in CORE}
    done = python('-c', in_forks('import torch, torchvision, huggingface_hub', cases))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('timm-se50 could not be loaded') == len(cases)
    assert all(f"from 'timm_se50.{module}'" in done.stderr for module in CORE)


@thorough
@pytest.mark.parametrize(('env', 'status', 'finding'), [
    ({}, 0, 'yes'), ({'TIMM_SE50_AUTOLOAD': '0'}, 1, 'no: the environment has TIMM_SE50_AUTOLOAD=0'),
    ({'TORCH_DEVICE_BACKEND_AUTOLOAD': '0'}, 1, 'no: the environment switches it off')])
def test_doctor(site, python, env, status, finding):
    done = python('-m', 'timm_se50.cli', 'doctor', **env)
    assert (done.returncode, done.stderr) == (status, '')
    for part in (f'in {site}', 'se_resnet50_patch (23 pretrained tags)', f'without an import  {finding}'):
        assert part in done.stdout
