"""The HTTP client that huggingface_hub stands on: requests before 1.0, httpx before 2.0, then httpx2."""
import importlib

from huggingface_hub.errors import HfHubHTTPError

try:
    from huggingface_hub.errors import RemoteEntryNotFoundError
except ImportError:  # before 1.0 there is no class for the Hub's answer alone; LocalEntryNotFoundError is one of these
    from huggingface_hub.errors import EntryNotFoundError as RemoteEntryNotFoundError  # type: ignore[assignment]

__all__ = ['HTTPError', 'RemoteEntryNotFoundError', 'TransportError', 'status_of', 'was_retried']

# More than one of the three may be installed, so the one is taken that the client's own errors derive from
_client = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition('.')[0])

HTTPError: type[Exception]  # any error of the client
TransportError: tuple[type[Exception], ...]  # those where no whole answer came, or none that can be unpacked
# Those errors and statuses on which it tries a download five times by itself
_retried: tuple[type[Exception], ...]
_retried_status: tuple[int, ...] = ()
if _client.__name__ == 'requests':
    HTTPError = _client.RequestException
    _retried, _retried_status = (_client.ConnectionError, _client.ReadTimeout), (500, 502, 503, 504)
    TransportError = (
        *_retried, _client.Timeout, _client.exceptions.ChunkedEncodingError,
        _client.exceptions.ContentDecodingError)
else:
    HTTPError = _client.HTTPError
    _retried = (_client.ConnectError, _client.TimeoutException, _client.RemoteProtocolError)
    TransportError = (_client.TransportError, _client.DecodingError)


def status_of(error: BaseException) -> int | None:
    """The status that a server answered with; None where there was no answer, or none that the error knows of."""
    return getattr(getattr(error, 'response', None), 'status_code', None)


def was_retried(error: BaseException) -> bool:
    """Whether the client has tried a download again and again before it raised this."""
    return isinstance(error, _retried) or status_of(error) in _retried_status
