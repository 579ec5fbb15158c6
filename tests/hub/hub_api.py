"""The requests of huggingface_hub and how the Hub answers them: routes, and what each does: (status, body, headers)."""
import base64
import json
import re
from hashlib import sha256

import yaml
from hub_repos import File, HubError

ID = r'(?P<id>[\w.-]+/[\w.-]+)'
ROUTES = {  # name -> (method, path)
    'create': ('POST', r'/api/repos/create'),
    'whoami': ('GET', r'/api/whoami-v2'),
    'yaml': ('POST', r'/api/validate-yaml'),
    'info': ('GET', rf'/api/models/{ID}(/revision/(?P<rev>[^/]+))?'),
    'preupload': ('POST', rf'/api/models/{ID}/preupload/(?P<rev>[^/]+)'),
    'commit': ('POST', rf'/api/models/{ID}/commit/(?P<rev>[^/]+)'),
    'batch': ('POST', rf'/{ID}\.git/info/lfs/objects/batch'),
    'put': ('PUT', rf'/lfs/{ID}/(?P<sha>\w{{64}})'),
    'get_lfs': ('GET', rf'/lfs/{ID}/(?P<sha>\w{{64}})'),
    'head': ('HEAD', rf'/{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)'),
    'get': ('GET', rf'/{ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)'),
}
LICENSES = {'apache-2.0', 'mit', 'bsd-3-clause', 'cc-by-nc-4.0', 'cc-by-4.0', 'other', 'unknown'}


class HubApi:
    """What each route of `ROUTES` does; it has an `owner`, the HubServer, a `token` and a `query`."""

    def on_create(self, body):
        args = json.loads(body)
        private = args.get('visibility') == 'private' or bool(args.get('private'))  # clients from 2 on send the former
        repo = self.owner.hub.create(args['name'], args.get('organization'), private, self.token)
        return 200, {'url': f'{self.owner.url}/{repo.id}', 'name': repo.id, 'id': repo.id}

    def on_whoami(self, body):
        user, role = self.owner.hub.user(self.token)
        return 200, {'name': user, 'type': 'user', 'auth': {'accessToken': {'role': role}}}

    def on_yaml(self, body):
        errors = card_errors(json.loads(body)['content'])
        return (400 if errors else 200), {'errors': [{'message': e} for e in errors], 'warnings': []}

    def on_info(self, body, id, rev='main'):
        repo = self.owner.hub.repo(id, self.token)
        sha = repo.resolve(rev)
        blobs = 'blobs' in self.query
        siblings = [f.info(p, 'rfilename') if blobs else {'rfilename': p} for p, f in repo.commits[sha].items()]
        return 200, {'id': id, 'modelId': id, 'sha': sha, 'private': repo.private,
                     'gated': 'manual' if repo.gated else False, 'siblings': siblings, 'tags': []}

    def on_preupload(self, body, id, rev):
        repo = self.owner.hub.writable(id, self.token)
        files = repo.commits[repo.resolve(rev)]
        return 200, {'files': [{
            'path': f['path'], 'shouldIgnore': False,
            'uploadMode': 'lfs' if f['path'].endswith(('.safetensors', '.bin')) else 'regular',
            'oid': files[f['path']].etag if f['path'] in files else None,
        } for f in json.loads(body)['files']]}

    def on_batch(self, body, id):
        self.owner.hub.writable(id, self.token)
        return 200, {'transfer': 'basic', 'objects': [o if o['oid'] in self.owner.hub.lfs else o | {'actions': {
            'upload': {'href': f'{self.owner.cdn}/lfs/{id}/{o["oid"]}', 'header': {}},
        }} for o in json.loads(body)['objects']]}

    def on_put(self, body, id, sha):
        if sha256(body).hexdigest() != sha:
            raise HubError(400, 'BadDigest: the sha256 you specified did not match what was received')
        self.owner.hub.lfs[sha] = body
        return 200, b'', {'ETag': f'"{sha}"'}

    def on_commit(self, body, id, rev):
        pull_request = 'create_pr' in self.query
        repo = self.owner.hub.writable(id, self.token)
        head, *operations = (json.loads(line) for line in body.splitlines())
        parent = repo.resolve(rev)
        if head['value'].get('parentCommit', parent) != parent and not pull_request:
            raise HubError(412, 'A commit has happened since. Please refresh and try again.')
        files = dict(repo.commits[parent])
        for op in operations:
            value = op['value']
            if op['key'] == 'file':
                files[value['path']] = File(base64.b64decode(value['content']))
            elif op['key'] == 'lfsFile':
                if value['oid'] not in self.owner.hub.lfs:
                    raise HubError(400, f'LFS object {value["oid"]} has not been uploaded')
                files[value['path']] = File(sha256=value['oid'], lfs_size=len(self.owner.hub.lfs[value['oid']]))
            else:
                raise AssertionError(op['key'])
        number = sum(r.startswith('refs/pr/') for r in repo.refs) + 1
        sha = repo.commit(f'refs/pr/{number}' if pull_request else rev, files, head['value']['summary'])
        return 200, {'success': True, 'commitOid': sha, 'commitUrl': f'{self.owner.url}/{id}/commit/{sha}',
                     'pullRequestUrl': f'{self.owner.url}/{id}/discussions/{number}' if pull_request else None}

    def on_head(self, body, id, rev, path):
        repo = self.owner.hub.readable(id, self.token)
        sha = repo.resolve(rev)
        if path not in repo.commits[sha]:
            raise HubError(404, f'Entry not found: {path}', 'EntryNotFound')
        file = repo.commits[sha][path]
        headers = {'X-Repo-Commit': sha}
        if file.sha256:
            return 302, b'', headers | {
                'Location': f'{self.owner.cdn}/lfs/{id}/{file.sha256}', 'ETag': f'"{file.blob_id}"',
                'X-Linked-Etag': f'"{file.sha256}"', 'X-Linked-Size': str(file.lfs_size)}
        return 200, file.content, headers | {'ETag': f'"{file.blob_id}"', 'Accept-Ranges': 'bytes'}

    on_get = on_head

    def on_get_lfs(self, body, id, sha):
        return 200, self.owner.hub.lfs[sha], {'ETag': f'"{sha}"', 'Accept-Ranges': 'bytes'}


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
