"""Two processes under torchrun with gloo, DDP and FSDP2, against one process on the joined batch."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name('distributed_worker.py')


@pytest.mark.thorough
def test_two_processes_equal_one():
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(WORKER)]
    env = {**os.environ, 'PYTHONPATH': str(WORKER.parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for case in ('ddp, replace', 'fsdp2, patch'):
        assert done.stdout.count(f'{case}: equal') == 2
