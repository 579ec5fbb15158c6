"""Models to the Hugging Face Hub: what is new goes there in one commit, on top of the one that was looked at."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import get_token, validate_repo_id
from torch import nn

from ..checkpoint import CardConfig, checkpoint_files
from .client import asked, explained, progress_bars
from .verified import stated

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
        OSError: The Hub cannot be reached or refuses, or someone else committed meanwhile: nothing of theirs is
            overwritten, push again. Where a connection broke, a commit may have arrived, and is not made twice; a pull
            request would be.
    """
    api = HfApi(token=token, library_name='timm-se50')
    validate_repo_id(repo_id)
    if not dry_run and (token is False or not (api.token or get_token())):
        raise PermissionError(
            'A push needs an access token with the role "write": log in with `hf auth login`, set HF_TOKEN or pass '
            'token=...')
    if '/' not in repo_id and not dry_run:
        with explained(repo_id):
            repo_id = f'{asked(api.whoami)["name"]}/{repo_id}'
    files = checkpoint_files(model, f'hf-hub:{repo_id}', portable, label_names, data_config, card)
    pushed = Pushed(repo_id, {name: len(content) for name, content in files.items()}, files['README.md'].decode())
    if dry_run:
        return pushed
    with progress_bars(not quiet):
        with explained(repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
        info, there = stated(api, repo_id, revision)
        if private is not None and info.private not in (None, private):
            raise ValueError(
                f'{repo_id} is {"private" if info.private else "public"}, and private={private} was asked for; nothing '
                'was sent. Change it in its settings on the Hub, or leave private out.')
        names = [name for name in files if name != 'README.md' or overwrite_card or name not in there]
        with explained(repo_id):
            commit = api.create_commit(  # none if all of it is there, and refused if someone else committed meanwhile
                repo_id, [CommitOperationAdd(name, files[name]) for name in names], revision=revision,
                commit_message=commit_message, create_pr=create_pr, parent_commit=info.sha)
    changed = commit.oid != info.sha
    return replace(pushed, commit=commit.oid, changed=changed, url=commit.pr_url or commit.commit_url)
