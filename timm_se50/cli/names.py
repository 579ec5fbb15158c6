"""Names of models that timm knows, and those near one that it does not."""
import difflib
import os

import timm

__all__ = ['check_name']


def check_name(name: str) -> None:
    """Check that timm knows a name, with its tag if it has one, unless it is a folder, file or address.

    Raises:
        ValueError: timm knows no such model; the message has names that begin so, or else are spelled much alike.
    """
    if os.path.exists(name) or any(sign in name for sign in ':/@'):
        return
    tagged = '.' in name
    known = timm.list_models(include_tags=tagged)
    if not (name in known if tagged else timm.is_model(name)):
        tags = [k for k in known if k.startswith(f'{name.partition(".")[0]}.')]
        near = [k for k in known if k.startswith(name)][:5]
        near = near or difflib.get_close_matches(name, tags or known, cutoff=0.5)
        raise ValueError(f'Unknown model ({name}): timm has none of that name, and here is no such folder. '
                         f'Near it: {", ".join(near) or "nothing"}.')
