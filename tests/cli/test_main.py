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


def test_completion():
    """click's own, by the environment variable that docs/command_line.md names."""
    def complete(words, current):
        env = {'_TIMM_SE50_COMPLETE': 'zsh_complete', 'COMP_WORDS': words, 'COMP_CWORD': str(current)}
        return CliRunner().invoke(main, env=env, prog_name='timm-se50').stdout.split('\n')[1::3]

    assert {'convert', 'gates', 'info'} <= set(complete('timm-se50 ', 1))
    assert complete('timm-se50 convert --route ', 3) == ['replace', 'patch']
