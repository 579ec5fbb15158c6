"""What a Hub stores, in memory, and how it answers the requests of huggingface_hub: (status, body, headers)."""
import base64
import hashlib
import json
import re
from dataclasses import dataclass, field

import yaml

ID = r'(?P<id>[\w.-]+/[\w.-]+)'
ROUTES = {  # name -> (method, path)
    'create': ('POST', r'/api/repos/create'),
    'whoami': ('GET', r'/api/whoami-v2'),
    'yaml': ('POST', r'/api/validate-yaml'),
    'info': ('GET', rf'/api/models/{ID}(/revision/(?P<rev>[^/]+))?'),
    'preupload': ('POST', rf'/api/models/{ID}/preupload/(?P<rev>[^/]+)'),
    'commit': ('POST', rf'/api/models/{ID}/commit/(?P<rev>[^/]+)'),
    'batch': ('POST', rf'/{ID}\.git/info/lfs/objects/batch'),
    'put': ('PUT', r'/lfs/(?P<sha>\w{64})'),
    'get_lfs': ('GET', r'/lfs/(?P<sha>\w{64})'),
    'head': ('HEAD', rf'/{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)'),
    'get': ('GET', rf'/{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)'),
}
LICENSES = {'apache-2.0', 'mit', 'bsd-3-clause', 'cc-by-nc-4.0', 'cc-by-4.0', 'other', 'unknown'}


class HubError(Exception):
    """An answer other than success: status, message and the Hub's X-Error-Code."""


def is_large(path: str) -> bool:
    """Whether a file is stored apart, under its sha256."""
    return path.endswith('.safetensors')


def sibling(path: str, content: bytes) -> dict:
    """What a Hub states of a file."""
    info = {'rfilename': path, 'size': len(content)}
    if is_large(path):
        sha = hashlib.sha256(content).hexdigest()
        pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n' % (sha.encode(), len(content))
        info['lfs'] = {'sha256': sha, 'size': len(content), 'pointerSize': len(pointer)}
        content = pointer
    return info | {'blobId': hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()}


@dataclass
class Repo:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # the files of each, by its hash
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)  # branches, and refs/pr/N

    def __post_init__(self):
        self.commit({'.gitattributes': b'*.safetensors filter=lfs diff=lfs merge=lfs -text\n'}, 'initial')

    def commit(self, files: dict[str, bytes], message: str = 'add', ref: str = 'main') -> str:
        """Commit these and no other files."""
        sha = hashlib.sha1(repr((len(self.commits), message)).encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        self.refs[ref] = sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs['main']]


class HubApi:
    """What each route of `ROUTES` does. It has the `server` and the `query`."""

    def find(self, id: str, rev: str = 'main') -> tuple[Repo, str]:
        """A repo and the commit of a revision."""
        if id not in self.server.repos:
            raise HubError(404, 'Repository not found', 'RepoNotFound')
        repo = self.server.repos[id]
        if rev not in repo.refs and rev not in repo.commits:
            raise HubError(404, f'Invalid rev id: {rev}', 'RevisionNotFound')
        return repo, repo.refs.get(rev, rev)

    def on_create(self, body):
        args = json.loads(body)
        repo_id = f'{args.get("organization") or "ann"}/{args["name"]}'
        private = args.get('visibility') == 'private' or bool(args.get('private'))  # clients from 2 on send the former
        there = repo_id in self.server.repos
        self.server.repos.setdefault(repo_id, Repo(private))
        return (409 if there else 200), {'url': f'{self.server.url}/{repo_id}', 'name': repo_id, 'id': repo_id}

    def on_whoami(self, body):
        return 200, {'name': 'ann', 'type': 'user', 'auth': {'accessToken': {'role': 'write'}}}

    def on_yaml(self, body):
        errors = card_errors(json.loads(body)['content'])
        return (400 if errors else 200), {'errors': [{'message': e} for e in errors], 'warnings': []}

    def on_info(self, body, id, rev='main'):
        repo, sha = self.find(id, rev)
        siblings = [sibling(*file) for file in repo.commits[sha].items()]
        return 200, {'id': id, 'sha': sha, 'private': repo.private, 'siblings': siblings, 'tags': []}

    def on_preupload(self, body, id, rev):
        repo, sha = self.find(id, rev)
        files = {path: sibling(path, content) for path, content in repo.commits[sha].items()}
        return 200, {'files': [{
            'path': f['path'], 'shouldIgnore': False, 'uploadMode': 'lfs' if is_large(f['path']) else 'regular',
            'oid': stated_hash(files[f['path']]) if f['path'] in files else None,
        } for f in json.loads(body)['files']]}

    def on_batch(self, body, id):
        self.find(id)
        return 200, {'transfer': 'basic', 'objects': [o if o['oid'] in self.server.large_files else o | {'actions': {
            'upload': {'href': f'{self.server.large}/lfs/{o["oid"]}', 'header': {}},
        }} for o in json.loads(body)['objects']]}

    def on_put(self, body, sha):
        assert hashlib.sha256(body).hexdigest() == sha
        self.server.large_files[sha] = body
        return 200, b'', {'ETag': f'"{sha}"'}

    def on_commit(self, body, id, rev):
        repo, parent = self.find(id, rev)
        head, *operations = (json.loads(line)['value'] for line in body.splitlines())
        if head.get('parentCommit', parent) != parent:
            raise HubError(412, 'A commit has happened since. Please refresh and try again.', '')
        files = dict(repo.commits[parent])
        for op in operations:
            large = self.server.large_files.get(op.get('oid'))
            files[op['path']] = base64.b64decode(op['content']) if large is None else large
        pull_request = 'create_pr' in self.query
        sha = repo.commit(files, head['summary'], 'refs/pr/1' if pull_request else rev)
        return 200, {'success': True, 'commitOid': sha, 'commitUrl': f'{self.server.url}/{id}/commit/{sha}',
                     'pullRequestUrl': f'{self.server.url}/{id}/discussions/1' if pull_request else None}

    def on_head(self, body, id, rev, path):
        repo, sha = self.find(id, rev)
        if path not in repo.commits[sha]:
            raise HubError(404, f'Entry not found: {path}', 'EntryNotFound')
        content = repo.commits[sha][path]
        file = sibling(path, content)
        headers = {'X-Repo-Commit': sha, 'ETag': f'"{file["blobId"]}"'}
        if is_large(path):
            large = stated_hash(file)
            self.server.large_files[large] = content
            return 302, b'', headers | {
                'Location': f'{self.server.large}/lfs/{large}', 'X-Linked-Etag': f'"{large}"',
                'X-Linked-Size': str(len(content))}
        return 200, content, headers

    on_get = on_head

    def on_get_lfs(self, body, sha):
        return 200, self.server.large_files[sha], {'ETag': f'"{sha}"'}


def stated_hash(sibling: dict) -> str:
    """What names a file's content: sha256 of a large one, else its git blob's."""
    return sibling['lfs']['sha256'] if 'lfs' in sibling else sibling['blobId']


def card_errors(content: str) -> list[str]:
    """What the real Hub's validate-yaml would not take, of what our cards use."""
    match = re.match(r'---\n(.*?)\n---\n', content, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as e:
        return [str(e)]
    errors = []
    if data.get('license', 'mit') not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}')
    if not re.fullmatch(r'[\w.-]+(/[\w.-]+)?', data.get('base_model', 'a/b')):
        errors.append('"base_model" is not a valid model id')
    for key in ('tags', 'metrics', 'datasets'):
        if not all(isinstance(v, str) for v in data.get(key, [])) or not isinstance(data.get(key, []), list):
            errors.append(f'"{key}" must be an array of strings')
    for entry in data.get('model-index', []):
        for result in entry['results']:
            if not all(result['dataset'].get(k) for k in ('name', 'type')) or not result['task'].get('type'):
                errors.append('"model-index": dataset and task need a type')
            if not all('value' in m and m.get('type') for m in result['metrics']):
                errors.append('"model-index": each metric needs a type and a value')
    return errors
