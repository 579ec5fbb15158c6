"""A file of weights that cannot be read or loaded: which one it is, whatever error its bytes end in."""
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ['naming']


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Have an error name the file that it is about: torch, pickle and safetensors do so in none of theirs."""
    try:
        yield
    except OSError as e:
        if e.filename or (e.args and e.errno is None):  # of the file system or the network: it says what it is about
            raise
        raise type(e)(f'{place}: {e if e.args else "there is no such file"}.') from e
    except RuntimeError as e:
        raise RuntimeError(f'{place}: {e}') from e
    except Exception as e:  # what a damaged pickle raises has no bound
        said = ' '.join(str(e).split()).rstrip('.') or 'it ends too early'
        raise ValueError(
            f'{place} cannot be read: {type(e).__name__}: {said}. Expected a whole safetensors file, or one of '
            'torch.save() with a state dict and no code; get it anew, or save the weights alone.') from e
