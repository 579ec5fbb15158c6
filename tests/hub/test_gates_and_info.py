"""The commands that take a model take a Hub id, and say what they say of the folder that was pushed."""
import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from timm_se50.cli.main import main


def test_info_of_a_hub_id(server, pushed, local, tmp_path):
    arguments = ['--size', '32', '--json']
    # a process of its own, since the clients read where the Hub is when they are imported
    env = {'PYTHONPATH': str(Path(__file__).parents[2]), 'HF_ENDPOINT': server.url, 'HF_HOME': str(tmp_path / 'cache')}
    done = subprocess.run([sys.executable, '-m', 'timm_se50.cli', 'info', 'hf-hub:ann/model', *arguments],
                          env=env | {'OMP_NUM_THREADS': '1'}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of_folder = CliRunner().invoke(main, ['info', str(local), *arguments])
    assert json.loads(done.stdout) == json.loads(of_folder.stdout)
