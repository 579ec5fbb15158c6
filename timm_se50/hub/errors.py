"""What the Hub answers, in plain words; and calls that are made again when it falters."""
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_token

from .http_client import (
    RETRIED_BY_CLIENT,
    HTTPError,
    RemoteEntryNotFoundError,
    TransportError,
    status_of,
    was_repeated,
)

__all__ = ['WAITS', 'NoAnswer', 'ask', 'download', 'explained', 'is_transient', 'retrying']

T = TypeVar('T')

WAITS = (1.0, 2.0, 4.0)  # seconds before each further try
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
# What the store of large files calls an upload that came out damaged, with status 400
_DAMAGED_UPLOAD = ('BadDigest', 'XAmzContentSHA256Mismatch', 'IncompleteBody', 'RequestTimeout')
# What the client makes of JSON that has another form than the Hub's
_OTHER_FORM = (
    TypeError, KeyError, AttributeError, IndexError, AssertionError, RecursionError, UnicodeDecodeError)
_OTHER_FORM_SAID = re.compile('malformed|improperly formatted|invalid server response|LFS batch API', re.IGNORECASE)


class NoAnswer(ConnectionError):
    """What came is not of the form of the Hub's answers."""

    def __init__(self, what: str):
        super().__init__(
            f'{constants.ENDPOINT} answered with something that is no answer of a Hub: {what}. Check HF_ENDPOINT and '
            'the proxies between, then try again.')


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a little later."""
    error = _unwrapped(error)
    if status_of(error) is not None:  # before huggingface_hub 1.0 a download raises the client's own error
        said = f'{getattr(error, "server_message", "")} {error}'
        return status_of(error) in _TRANSIENT_STATUS or any(code in said for code in _DAMAGED_UPLOAD)
    # Text that is no JSON is a proxy's page in place of an answer; an OSError without number is the client's own, for a
    # download that came out too short.
    return isinstance(error, (*TransportError, json.JSONDecodeError, NoAnswer)) or (
        type(error) is OSError and error.errno is None)


def _unwrapped(error: BaseException) -> BaseException:
    """The error itself; the client wraps one of an upload, and one of a download that it has no cached file for."""
    wraps = isinstance(error, LocalEntryNotFoundError) or (
        type(error) is RuntimeError and str(error).startswith('Error while uploading'))
    return error.__cause__ if wraps and error.__cause__ is not None else error


def ask(call: Callable[..., T], *args, **kwargs) -> T:
    """Call a method of the client; raises a `NoAnswer` for what it cannot make sense of."""
    try:
        return call(*args, **kwargs)
    except (*_OTHER_FORM, ValueError, RuntimeError) as e:
        cause = _unwrapped(e)
        own = type(cause).__module__.startswith('huggingface_hub')
        said = isinstance(cause, ValueError) and not isinstance(cause, (OSError, HFValidationError)) and (
            own or _OTHER_FORM_SAID.search(str(cause)))
        if isinstance(cause, _OTHER_FORM) or said:
            raise NoAnswer(f'{getattr(call, "__name__", call)}() ended in {type(cause).__name__}: {cause}') from e
        raise


def retrying(call: Callable[..., T], *args, but_not: tuple[type[Exception], ...] = (), **kwargs) -> T:
    """`ask`, and ask again after a while on a transient error that neither the client repeats nor is in `but_not`."""
    for wait in WAITS:
        try:
            return ask(call, *args, **kwargs)
        except Exception as e:
            if not is_transient(e) or isinstance(e, but_not) or was_repeated(_unwrapped(e)):
                raise
        time.sleep(wait)
    return ask(call, *args, **kwargs)


def download(call: Callable[..., T], *args, **kwargs) -> T:
    """`retrying` for a call that downloads a file by the client's `http_get()`."""
    return retrying(call, *args, but_not=RETRIED_BY_CLIENT, **kwargs)


@contextmanager
def explained(api: HfApi, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Raise errors of the Hub and its client as builtin ones that say what happened and what to do."""
    try:
        yield
    except (HfHubHTTPError, HTTPError, HFValidationError, OfflineModeIsEnabled, LocalEntryNotFoundError,
            json.JSONDecodeError, RuntimeError) as e:
        error = _explain(_unwrapped(e), api, repo_id, revision)
        if error is None:
            raise
        raise error from e


def _explain(e: BaseException, api: HfApi, repo_id: str, revision: str | None) -> Exception | None:
    """The error to raise for `e`, None for one that is not the Hub's."""
    url = f'{constants.ENDPOINT}/{repo_id}'
    log_in = 'log in with `hf auth login`, set HF_TOKEN or pass token=...'
    token = api.token if api.token is not None else get_token()
    if isinstance(e, HFValidationError):
        return ValueError(f"{repo_id!r} is no repo id; expected 'user/name'. {e}")
    if isinstance(e, OfflineModeIsEnabled):
        return ConnectionError(f'HF_HUB_OFFLINE is set, so {url} is out of reach; unset it.')
    if isinstance(e, GatedRepoError):
        account = 'with the account of this token' if token else f'there, then {log_in}'
        return PermissionError(f'{repo_id} is gated: ask for access at {url} {account}.')
    if isinstance(e, RevisionNotFoundError):
        return FileNotFoundError(f'{repo_id} has no revision {revision!r}; {_revisions(api, repo_id)}.')
    if isinstance(e, RemoteEntryNotFoundError):
        return FileNotFoundError(f'{repo_id}: {e.server_message or e}')
    if isinstance(e, RepositoryNotFoundError):
        access = 'check that the account of this token has access' if token else log_in
        return FileNotFoundError(f'There is no model repo {repo_id!r} at {constants.ENDPOINT}, or it is private. Check '
                                 f'the spelling; if it is private, {access}.')
    status, said = status_of(e), getattr(e, 'server_message', None) or ''
    if status is not None:
        if status == 401:
            advice = f'The token was refused ({said}): it is wrong, revoked or expired. Make a new one at ' \
                     f'{constants.ENDPOINT}/settings/tokens, then {log_in}.'
            return PermissionError(advice if token else f'{url} asks for a token ({said}): {log_in}.')
        if status == 403:
            return PermissionError(
                f'The token may not write to {repo_id} ({said}). Use one with the role "write" of an account that may, '
                'or propose the change with create_pr=True.')
        if status in (409, 412):
            return RuntimeError(f'{repo_id} changed during the push ({said}). Nothing was overwritten; push again.')
        if status in _TRANSIENT_STATUS:
            return ConnectionError(f'{url} answered {status} again and again; try later.')
        return RuntimeError(f'{url} answered {status}: {said or e}')
    if isinstance(e, (HTTPError, json.JSONDecodeError)):
        return ConnectionError(
            f'The connection to {constants.ENDPOINT} failed ({type(e).__name__}: {e}). Check the network, then try '
            'again.')
    return None


def _revisions(api: HfApi, repo_id: str) -> str:
    """What revisions there are, as far as the Hub tells."""
    try:
        refs = api.list_repo_refs(repo_id)
    except Exception:  # it is only for the message of another error
        return 'expected a branch, a tag or a commit'
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f'expected a commit or one of {", ".join(map(repr, names))}'
