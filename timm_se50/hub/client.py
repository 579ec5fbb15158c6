"""Calls of huggingface_hub: what its errors lack, a second try where it makes one, and its progress bars."""
import time
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

__all__ = ['asked', 'explained', 'progress_bars']


def asked(call, *args, **kwargs):
    """Call a method of the client that makes one request; once more, if no answer comes or the server is busy."""
    try:
        return call(*args, **kwargs)
    except Exception as e:  # each HTTP client has its own for a connection that breaks
        status = getattr(getattr(e, 'response', None), 'status_code', 500)
        if status < 500 and status != 429:
            raise
    time.sleep(1)
    return call(*args, **kwargs)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Have errors of the client's calls name `what`, a repo or one of its files, and be OSErrors or ValueErrors."""
    try:
        yield
    except Exception as e:
        if isinstance(e, HfHubHTTPError) and e.response is not None:
            log_in = '; log in with `hf auth login`, set HF_TOKEN or pass token=...'
            e.append_to_message(f'\n({what}{log_in if e.response.status_code == 401 else ""})')
            raise
        if isinstance(e, OSError) and isinstance(e.errno, int):  # of this machine
            raise OSError(e.errno, e.strerror, e.filename or what) from e
        if type(e) in (ValueError, HFValidationError) and isinstance(e.__cause__, (BadRequestError, type(None))):
            raise  # of an argument, or of the card
        # what a connection that breaks, or an answer that is no Hub's, makes of the client has no bound
        cause = e.__cause__ or e
        raise ConnectionError(
            f'{what}: no whole answer of a Hub came from {constants.ENDPOINT} ({type(cause).__name__}: {cause}). Check '
            'the network, HF_ENDPOINT and the proxies between, then try again.') from e


@contextmanager
def progress_bars(show: bool) -> Iterator[None]:
    """Turn the progress bars of huggingface_hub off for a while, unless `show`."""
    were_off = are_progress_bars_disabled()
    if not show:
        disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()
