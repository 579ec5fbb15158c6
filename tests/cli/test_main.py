"""What holds for every command."""
import os
import shlex
import subprocess
import sys

import pytest
from click.testing import CliRunner

from timm_se50.cli.main import main


def test_a_pipe_that_nobody_reads_is_no_error():
    """As in `timm-se50 info ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, '-m', 'timm_se50.cli', 'info', 'se_resnet50_patch', '--size', '32', '--json']
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ''


@pytest.mark.parametrize('name', main.commands)
def test_help_ends_with_an_example_that_the_command_takes(name):
    text = CliRunner().invoke(main, [name, '--help']).output
    program, command, *arguments = shlex.split(text.strip().splitlines()[-1].partition('Example: ')[2])
    assert (program, command) == ('timm-se50', name)
    main.commands[name].make_context(name, arguments)
