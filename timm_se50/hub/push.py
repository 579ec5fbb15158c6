"""Models to the Hugging Face Hub: what is new goes there in one commit, which is then compared with what was sent."""
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import get_token, validate_repo_id
from torch import nn

from ..checkpoint.card import CardConfig
from ..checkpoint.folder import FILES, write_checkpoint
from .errors import WAITS, NoAnswer, ask, explained, is_transient, retrying
from .pull import progress_bars
from .stated import file_hash, is_hash, stated_files, stated_info

__all__ = ['Pushed', 'push_to_hub']


@dataclass(frozen=True)
class Pushed:
    """What a push did, or with `dry_run` would do.

    Args:
        repo_id: 'USER/NAME'.
        files: Size of each file, in bytes, by name.
        card: The card's text.
        commit: Commit that holds the files, None for a dry run.
        changed: Whether the push made that commit; False if it was there with the same content.
        url: Of the commit or pull request.
    """
    repo_id: str
    files: dict[str, int]
    card: str
    commit: str | None = None
    changed: bool = False
    url: str | None = None


def push_to_hub(
        model: nn.Module,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        commit_message: str = 'Add model',
        overwrite_card: bool = False,
        dry_run: bool = False,
        quiet: bool = False,
        portable: bool = False,
        label_names: Sequence[str] | None = None,
        data_config: Mapping[str, Any] | None = None,
        card: CardConfig = CardConfig(),
) -> Pushed:
    """Push a model to the Hub, for `timm.create_model('hf-hub:USER/NAME', pretrained=True)`.

    Args:
        model: As for `save_checkpoint()`, as are `portable`, `label_names`, `data_config` and `card`.
        repo_id: 'USER/NAME', or 'NAME' for the account of the token; made if there is none.
        revision: Branch to commit to; 'main' by default.
        token: Access token; by default the one that is logged in.
        private: Make the repo a private one; for a repo that exists it must be what it is.
        create_pr: Open a pull request instead of a commit to the branch.
        commit_message: Title of the commit.
        overwrite_card: Replace a README.md that is there; by default it is kept.
        dry_run: Send nothing, and return what would be sent.
        quiet: Show no progress bars.

    Returns:
        What was done.

    Raises:
        ValueError: The model cannot be saved, or the repo is public and `private` was asked for. Nothing was sent.
        OSError: The Hub cannot be reached or refuses; the message says why and what to do. No commit was made, unless
            it says so.
        RuntimeError: What the Hub has is not what was sent.
    """
    api = HfApi(token=token, library_name='timm-se50')
    with explained(api, repo_id, revision), progress_bars(not quiet), tempfile.TemporaryDirectory() as tmp:
        validate_repo_id(repo_id)
        if not dry_run and (token is False or not (api.token or get_token())):
            raise PermissionError(
                'A push needs an access token with the role "write": log in with `hf auth login`, set HF_TOKEN or pass '
                'token=...')
        if '/' not in repo_id and not dry_run:
            repo_id = f'{retrying(_account, api)}/{repo_id}'
        folder = Path(tmp)
        write_checkpoint(
            model, folder, portable=portable, label_names=label_names, data_config=data_config, card=card,
            source=f'hf-hub:{repo_id}')
        sizes = {name: (folder / name).stat().st_size for name in FILES}
        pushed = Pushed(repo_id, sizes, (folder / 'README.md').read_text('utf-8'))
        return pushed if dry_run else _push(
            api, folder, pushed, revision, private, create_pr, commit_message, overwrite_card)


def _push(api, folder, pushed, revision, private, create_pr, commit_message, overwrite_card) -> Pushed:
    repo_id = pushed.repo_id
    try:
        info = stated_info(api, repo_id, revision)
    except RepositoryNotFoundError as e:
        if isinstance(e, GatedRepoError):
            raise
        if revision not in (None, constants.DEFAULT_REVISION):
            raise FileNotFoundError(
                f'There is no {repo_id} yet, and so no revision {revision!r} of it; push without one first.') from e
        retrying(api.create_repo, repo_id, private=private, exist_ok=True)
        info = stated_info(api, repo_id, revision)
    if private is not None and info.private is not None and private != info.private:
        raise ValueError(
            f'{repo_id} is {"private" if info.private else "public"}, and private={private} was asked for; nothing was '
            'sent. Change it in its settings on the Hub, or leave private out.')

    there = stated_files(info)
    names = [name for name in FILES if name != 'README.md' or overwrite_card or name not in there]
    differing = _differing(info, folder, names)
    if not differing:
        return _done(pushed, str(info.sha), False)
    for _ in range(1 if create_pr else 2):  # what came out damaged is sent once more, in a commit on top
        operations = [CommitOperationAdd(name, str(folder / name)) for name in differing]
        retrying(api.preupload_lfs_files, repo_id, operations, revision=revision, create_pr=create_pr)
        ignored = [op.path_in_repo for op in operations if getattr(op, '_should_ignore', False)]
        if ignored:
            raise RuntimeError(f'The .gitignore of {repo_id} leaves out {", ".join(ignored)}; nothing was committed. '
                               'Take it out there, then push again.')
        commit, url = _commit(api, repo_id, operations, folder, info, revision, create_pr, commit_message)
        info = stated_info(api, repo_id, commit)
        differing = _differing(info, folder, names)
        if not differing:
            return _done(pushed, commit, True, url)
    raise RuntimeError(
        f'Commit {commit} of {repo_id} does not hold what was sent: {", ".join(differing)} is missing there or came '
        'out damaged. Push again.')


def _commit(api, repo_id, operations, folder, before, revision, create_pr, message) -> tuple[str, str]:
    """Make the commit, on top of the one that the files were compared with; its id and address."""
    for wait in (*WAITS, None):
        try:
            made = ask(
                api.create_commit, repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr,
                parent_commit=before.sha)
            if not is_hash(made.oid, 40):
                raise NoAnswer(f'the commit is {made.oid!r}')
            return made.oid, made.pr_url or made.commit_url
        except Exception as e:
            refused = isinstance(e, HfHubHTTPError) and e.response.status_code in (429, 503)
            if not is_transient(e):
                raise
            if create_pr and not refused:
                raise ConnectionError(
                    f'The answer to the pull request got lost; it may have been opened. Look at {constants.ENDPOINT}/'
                    f'{repo_id}/discussions before you push again.') from e
            time.sleep(wait or 0)
            now = stated_info(api, repo_id, revision)
            if now.sha != before.sha and not create_pr:  # only the answer got lost, or someone else was faster
                if _differing(now, folder, [op.path_in_repo for op in operations]):
                    raise RuntimeError(
                        f'{repo_id} changed during the push. Nothing was overwritten; push again.') from e
                return str(now.sha), f'{constants.ENDPOINT}/{repo_id}/commit/{now.sha}'
            if wait is None:
                raise
    raise AssertionError  # not reached


def _account(api: HfApi) -> str:
    name = api.whoami().get('name')
    if not isinstance(name, str):
        raise NoAnswer(f'whoami names the account {name!r}')
    return name


def _differing(info: ModelInfo, folder: Path, names: Sequence[str]) -> list[str]:
    """Files that a commit does not hold as they are in the folder."""
    there = stated_files(info)
    return [n for n in names if n not in there or file_hash(folder / n, there[n].hash) != there[n].hash]


def _done(pushed: Pushed, commit: str, changed: bool, url: str | None = None) -> Pushed:
    url = url or f'{constants.ENDPOINT}/{pushed.repo_id}/commit/{commit}'
    return Pushed(pushed.repo_id, pushed.files, pushed.card, commit, changed, url)
