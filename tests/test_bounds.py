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


@pytest.mark.parametrize('extra', [None, 'demo', 'test'])
def test_lower_bounds_are_run(project, extra):
    requirements = project['dependencies'] if extra is None else project['optional-dependencies'][extra]
    for requirement in requirements:
        if not requirement.startswith('timm-se50['):
            name, bound = re.match(r'([\w.-]+)>=([\d.]+)', requirement).groups()
            assert bound in (OLDEST[name], OLDEST[name].removesuffix('.0')), requirement


def test_python_versions(project):
    named = re.findall(r'Python :: (3\.\d+)', ' '.join(project['classifiers']))
    assert project['requires-python'] == f'>={named[0]}'
    assert '.'.join(map(str, sys.version_info[:2])) in named
