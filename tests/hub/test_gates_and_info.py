"""`timm-se50 gates` and `info` on a Hub id give what they give on the folder that was pushed."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from timm_se50.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('command', ['gates', pytest.param('info', marks=pytest.mark.weekly)])
def test_hub_id(command, server, pushed, local, tmp_path):
    arguments = ['--size', '32', '--json']
    if command == 'gates':
        (tmp_path / 'cat').mkdir()
        for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), np.uint8)):
            Image.fromarray(pixels).save(tmp_path / 'cat' / f'{i}.png')
        arguments.append(str(tmp_path / 'cat'))
    # a process of its own, since the clients read where the Hub is when they are imported
    env = {'PYTHONPATH': str(ROOT), 'HF_ENDPOINT': server.url, 'HF_HOME': str(tmp_path / 'cache')}
    done = subprocess.run([sys.executable, '-m', 'timm_se50.cli', command, 'hf-hub:ann/model', *arguments],
                          env=env | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_folder = CliRunner().invoke(main, [command, str(local), *arguments])
    found, expected = json.loads(done.stdout), json.loads(of_folder.stdout)
    assert len(found['blocks']) == {'info': 16, 'gates': 9}[command]  # 9 blocks have SE: se_stages=(3, 4)
    if command == 'info':
        assert found == expected
    else:  # threads may round otherwise
        for a, b in zip(found['blocks'], expected['blocks'], strict=True):
            assert a['block'] == b['block']
            assert np.allclose(a['class_mean'], b['class_mean'], atol=1e-2)  # bfloat16
