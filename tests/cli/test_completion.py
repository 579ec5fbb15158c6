"""Shell completion, click's own, by the environment variable that the documentation names."""
import pytest
from click.testing import CliRunner

from timm_se50.cli.main import main


@pytest.mark.parametrize('shell', ['zsh', 'fish'])  # for bash, click asks for the version of the bash it finds
def test_script(shell):
    result = CliRunner().invoke(main, env={'_TIMM_SE50_COMPLETE': f'{shell}_source'}, prog_name='timm-se50')
    assert result.exit_code == 0
    assert 'timm-se50' in result.stdout
    assert f'_TIMM_SE50_COMPLETE={shell}_complete' in result.stdout


def test_commands_and_options_are_completed():
    def complete(words, current):
        env = {'_TIMM_SE50_COMPLETE': 'zsh_complete', 'COMP_WORDS': words, 'COMP_CWORD': str(current)}
        return CliRunner().invoke(main, env=env, prog_name='timm-se50').stdout.split('\n')[1::3]

    assert {'convert', 'gates', 'info'} <= set(complete('timm-se50 ', 1))
    assert complete('timm-se50 convert --ro', 2) == ['--route']
    assert complete('timm-se50 convert --route ', 3) == ['replace', 'patch']
