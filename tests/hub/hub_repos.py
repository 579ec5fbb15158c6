"""What a Hub stores, in memory: repos with commits, branches and pull requests, LFS objects, and who may do what."""
import hashlib
from dataclasses import dataclass, field


class HubError(Exception):
    """An answer other than success: status, message and the Hub's X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **more):
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit: its content, or an LFS pointer to it."""
    content: bytes = b''
    sha256: str | None = None
    lfs_size: int = 0

    @property
    def size(self) -> int:
        return self.lfs_size if self.sha256 else len(self.content)

    @property
    def pointer(self) -> bytes:
        return (f'version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\n'
                f'size {self.lfs_size}\n').encode()

    @property
    def blob_id(self) -> str:
        return git_blob_id(self.pointer if self.sha256 else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id

    def info(self, path: str, key: str = 'path') -> dict:
        info = {key: path, 'size': self.size, 'blobId': self.blob_id, 'oid': self.blob_id, 'type': 'file'}
        if self.sha256:
            lfs = {'sha256': self.sha256, 'oid': self.sha256, 'size': self.lfs_size, 'pointerSize': len(self.pointer)}
            info['lfs'] = lfs
        return info


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)  # branches, and refs/pr/N

    def __post_init__(self):
        self.commit('main', {'.gitattributes': File(b'*.safetensors filter=lfs diff=lfs merge=lfs -text\n')}, 'initial')

    def commit(self, ref: str, files: dict[str, File], message: str) -> str:
        state = self.id, self.refs.get(ref), sorted((k, v.blob_id) for k, v in files.items()), message
        sha = hashlib.sha1(repr(state).encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.refs[ref] = sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.refs.get(revision) or (revision if revision in self.commits else None)
        if sha is None:
            raise HubError(404, f'Invalid rev id: {revision}', 'RevisionNotFound')
        return sha


@dataclass
class Hub:
    """Repos, the LFS store and the tokens: token -> (user, 'read' | 'write' | 'expired')."""
    tokens: dict[str, tuple[str, str]]
    repos: dict[str, Repo] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)
    url: str = ''

    def user(self, token: str | None) -> tuple[str | None, str | None]:
        if token is None:
            return None, None
        user, role = self.tokens.get(token, (None, None))
        if user is None:
            raise HubError(401, 'Invalid credentials in Authorization header')
        if role == 'expired':
            raise HubError(401, 'User Access Token "mine" is expired')
        return user, role

    def repo(self, repo_id: str, token: str | None) -> Repo:
        """A repo that the token may see; the real Hub does not tell a private repo from one that does not exist."""
        user, _ = self.user(token)
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and repo_id.split('/')[0] != user):
            raise HubError(404 if token else 401, 'Repository not found', 'RepoNotFound')
        return repo

    def readable(self, repo_id: str, token: str | None) -> Repo:
        """A repo whose files the token may read."""
        repo = self.repo(repo_id, token)
        user, _ = self.user(token)
        if repo.gated and repo_id.split('/')[0] != user:
            raise HubError(403 if user else 401, f'Access to model {repo_id} is restricted.', 'GatedRepo')
        return repo

    def writable(self, repo_id: str, token: str | None) -> Repo:
        repo = self.repo(repo_id, token)
        if self.user(token)[1] != 'write':
            raise HubError(403, 'Forbidden: you need write access, pass `create_pr=1` to create a Pull Request')
        return repo

    def create(self, name: str, organization: str | None, private: bool, token: str | None) -> Repo:
        user, role = self.user(token)
        repo_id = f'{organization or user}/{name}'
        if role != 'write':
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{organization}"')
        if repo_id in self.repos:
            raise HubError(409, 'You already created this model repo', url=f'{self.url}/{repo_id}')
        self.repos[repo_id] = Repo(repo_id, private)
        return self.repos[repo_id]
