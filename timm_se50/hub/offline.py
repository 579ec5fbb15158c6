"""Files of a Hub repo with HF_HUB_OFFLINE: from the cache, which has nothing but names to verify them by."""
import os
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from .stated import file_hash, is_hash

__all__ = ['NEEDED', 'from_cache']

NEEDED = ('config.json', 'model.safetensors')


def from_cache(repo_id: str, revision: str, cache: Path) -> Path:
    """The folder of a revision in the cache, its files compared with the hash that the cache names each by.

    Raises:
        OSError: A file is not there, or cannot be verified; nothing is changed.
    """
    config = try_to_load_from_cache(repo_id, 'config.json', cache_dir=cache, revision=revision)
    if not isinstance(config, str) or not Path(config).with_name('model.safetensors').exists():
        raise FileNotFoundError(
            f'HF_HUB_OFFLINE is set and {repo_id} at {revision!r} is not in the cache; unset it, or pull once before.')
    for name in NEEDED:
        path = Path(config).with_name(name)
        stated = os.path.basename(os.readlink(path)) if path.is_symlink() else ''  # the cache names content by hash
        if not (is_hash(stated, 40) or is_hash(stated, 64)):
            raise OSError(
                f'{path} cannot be verified offline, since the cache does not name it by its hash; unset '
                'HF_HUB_OFFLINE.')
        if file_hash(path, stated) != stated:
            raise OSError(
                f'{name} of {repo_id} cannot be verified offline: the cache names it {stated}, which is not its hash. '
                f'It is damaged, or named by something else. It was not loaded; {path} is as it was. Unset '
                'HF_HUB_OFFLINE to have it compared with what the Hub states, and downloaded anew if need be.')
    return Path(config).parent
