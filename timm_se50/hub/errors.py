"""What the Hub answers, in plain words; and calls that are made again when it falters."""
import json
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

from .http_client import HTTPError, RemoteEntryNotFoundError, TransportError, status_of

__all__ = ['WAITS', 'explained', 'is_transient', 'retrying']

T = TypeVar('T')

WAITS = (1.0, 2.0, 4.0)  # seconds before each further try
_TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a little later."""
    if isinstance(error, HfHubHTTPError):
        return status_of(error) in _TRANSIENT_STATUS
    # A JSON error is a proxy's page in place of an answer; an OSError without number is the client's own, for a
    # download that came out too short.
    return isinstance(error, (*TransportError, json.JSONDecodeError)) or (
        type(error) is OSError and error.errno is None)


def retrying(call: Callable[..., T], *args, but_not: tuple[type[Exception], ...] = (), **kwargs) -> T:
    """Call, and call again after a while on a transient error, except those of a type in `but_not`."""
    for wait in WAITS:
        try:
            return call(*args, **kwargs)
        except Exception as e:
            if not is_transient(e) or isinstance(e, but_not):
                raise
        time.sleep(wait)
    return call(*args, **kwargs)


@contextmanager
def explained(api: HfApi, repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Raise errors of the Hub and its client as builtin ones that say what happened and what to do."""
    try:
        yield
    except (HfHubHTTPError, HTTPError, HFValidationError, OfflineModeIsEnabled, LocalEntryNotFoundError,
            json.JSONDecodeError, RuntimeError) as e:
        # the client wraps an error of an upload, and one of a download that it has no cached file for
        wrapped = e.__cause__ is not None and (
            isinstance(e, LocalEntryNotFoundError) or str(e).startswith('Error while uploading'))
        error = _explain(e.__cause__ if wrapped else e, api, repo_id, revision)  # type: ignore[arg-type]
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
    if isinstance(e, HfHubHTTPError):
        status, said = status_of(e), e.server_message or ''
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
