"""`timm-se50 doctor`: what is registered with timm in this environment, and how it got there."""
import os
import platform
import subprocess
import sys
from importlib.metadata import entry_points, version

import click
import timm

from .. import __file__ as package_file, __version__
from ..se_resnet50 import default_cfgs

__all__ = ['command', 'diagnose']

_LIBRARIES = ('timm', 'torch', 'torchvision', 'huggingface_hub', 'safetensors')
_MODELS = sorted({name.partition('.')[0] for name in default_cfgs})
_FRESH = f'import timm; assert all(map(timm.is_model, {_MODELS})), "timm does not know the models"'


def diagnose() -> tuple[bool, dict[str, str]]:
    """Find out whether timm knows the models with and without an import of the plugin; takes a few seconds.

    Returns:
        Whether a fresh Python process that imports nothing but timm knows them, and the findings by title.
    """
    why_not = _why_not_without_import()
    tags = {name: len(timm.list_pretrained(name)) for name in _MODELS}
    return not why_not, {
        'timm_se50': f'{__version__} in {os.path.dirname(package_file)}',
        'python': f'{platform.python_version()}, {sys.executable}',
        'libraries': ', '.join(f'{name} {version(name)}' for name in _LIBRARIES),
        'models': ', '.join(f'{name} ({count} pretrained tags)' for name, count in tags.items()),
        'without an import': f'no: {why_not}' if why_not else 'yes, wherever timm is imported',
    }


def _why_not_without_import() -> str:
    """Why timm does not know the models until the plugin is imported; empty where it does."""
    if os.environ.get('TIMM_SE50_AUTOLOAD') == '0':
        return 'the environment has TIMM_SE50_AUTOLOAD=0'
    if os.environ.get('TORCH_DEVICE_BACKEND_AUTOLOAD', '1') != '1':  # as torch reads it
        return 'the environment switches it off for all of PyTorch, by TORCH_DEVICE_BACKEND_AUTOLOAD'
    if not entry_points(group='torch.backends', name='timm_se50'):
        return 'timm-se50 is on the path and not installed; pip install it (a source tree: pip install -e .)'
    fresh = subprocess.run([sys.executable, '-c', _FRESH], capture_output=True, text=True)
    return (fresh.stderr.strip() or f'Python ended with status {fresh.returncode}') if fresh.returncode else ''


@click.command('doctor', epilog='Example: timm-se50 doctor')
def command():
    """Show what timm knows of this plugin, and how; fails where timm does not know its models without an import."""
    well, findings = diagnose()
    for title, finding in findings.items():
        click.echo(f'{title:18} {finding}')
    raise SystemExit(not well)
