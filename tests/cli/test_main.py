"""What holds for every command."""
import os
import subprocess
import sys


def test_a_pipe_that_nobody_reads_is_no_error():
    """As in `timm-se50 info ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, '-m', 'timm_se50.cli', 'info', 'se_resnet50_patch', '--size', '32', '--json']
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ''
