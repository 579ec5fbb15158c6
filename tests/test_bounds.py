"""What pyproject.toml allows is what CI runs: its lower bounds are the versions in .ci/oldest.txt, and no others."""
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLDEST = dict(re.findall(r'^([\w.-]+)==([\d.]+)$', (ROOT / '.ci' / 'oldest.txt').read_text(), re.MULTILINE))


@pytest.fixture(scope='module')
def project():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no parser of TOML')
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def bounds(requirements):
    """Lower bound by package; other extras of this package have none."""
    return {name: version for name, version in (
        re.match(r'([\w.-]+?)(?:\[.*?\])?(?:>=([\d.]+).*)?$', requirement).groups() for requirement in requirements)
        if not name.startswith('timm-se50')}


@pytest.mark.parametrize('extra', [None, 'demo', 'test'])
def test_lower_bounds_are_run(project, extra):
    stated = bounds(project['dependencies'] if extra is None else project['optional-dependencies'][extra])
    assert stated
    for name, version in stated.items():
        run = OLDEST[name]
        assert version in (run, run.removesuffix('.0')), f'{name}>={version}, and CI runs {run}'


def test_python_versions(project):
    named = re.findall(r'Python :: (3\.\d+)', ' '.join(project['classifiers']))
    assert project['requires-python'] == f'>={named[0]}'
    assert '.'.join(map(str, sys.version_info[:2])) in named
