"""Names of models that timm knows, and those near one that it does not."""
import difflib
import os

import timm
from timm.models import get_arch_pretrained_cfgs

__all__ = ['check_name']


def check_name(name: str) -> None:
    """Check that timm knows a name, if it is one, and no folder, file or address.

    Raises:
        ValueError: timm knows no such model or tag; the message has those that are near.
    """
    if os.path.exists(name) or any(sign in name for sign in ':/@'):
        return
    architecture, _, tag = name.partition('.')
    if not timm.is_model(architecture):
        raise ValueError(f'Unknown model ({name}): timm has none of that name, and here is no such folder. '
                         f'{_near(architecture, timm.list_models())}')
    if tag and name not in (tags := list(get_arch_pretrained_cfgs(architecture))):
        raise ValueError(f'Unknown tag ({name}). {_near(name, tags)}')


def _near(name: str, known: list[str]) -> str:
    """Names that begin so, or else those that are spelled much alike."""
    near = [k for k in known if name and k.startswith(name)][:5] or difflib.get_close_matches(name, known)
    return f'Near it: {", ".join(near)}.' if near else 'timm.list_models() and timm.list_pretrained() have all names.'
