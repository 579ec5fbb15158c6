"""The HTTP client that huggingface_hub stands on: requests before 1.0, httpx before 2.0, then httpx2."""
import importlib
import traceback

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import http_backoff

try:
    from huggingface_hub.errors import RemoteEntryNotFoundError
except ImportError:  # before 1.0 there is no class for the Hub's answer alone; LocalEntryNotFoundError is one of these
    from huggingface_hub.errors import EntryNotFoundError as RemoteEntryNotFoundError  # type: ignore[assignment]

__all__ = ['RETRIED_BY_CLIENT', 'HTTPError', 'RemoteEntryNotFoundError', 'TransportError', 'status_of', 'was_repeated']

# More than one of the three may be installed, so the one is taken that the client's own errors derive from
_client = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition('.')[0])

HTTPError: type[Exception]  # any error of the client
TransportError: tuple[type[Exception], ...]  # those where no whole answer came, or none that can be unpacked
RETRIED_BY_CLIENT: tuple[type[Exception], ...]  # those on which it tries a download five times by itself
if _client.__name__ == 'requests':
    HTTPError = _client.RequestException
    RETRIED_BY_CLIENT = (_client.ConnectionError, _client.ReadTimeout)
    TransportError = (
        *RETRIED_BY_CLIENT, _client.Timeout, _client.exceptions.ChunkedEncodingError,
        _client.exceptions.ContentDecodingError)
else:
    HTTPError = _client.HTTPError
    RETRIED_BY_CLIENT = (_client.ConnectError, _client.TimeoutException, _client.RemoteProtocolError)
    TransportError = (_client.TransportError, _client.DecodingError)


def status_of(error: BaseException) -> int | None:
    """The status that a server answered with; None where there was no answer, or none that the error knows of."""
    return getattr(getattr(error, 'response', None), 'status_code', None)


def was_repeated(error: BaseException) -> bool:
    """Whether the client has made the same request for 23 s before it raised this; which do differs by its version."""
    backed_off = any(frame.f_code is http_backoff.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
    return backed_off and (status_of(error) is not None or isinstance(error, RETRIED_BY_CLIENT))
