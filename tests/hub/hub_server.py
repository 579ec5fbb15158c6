"""A Hub on the loopback for the real clients: HTTP, and what goes wrong with it.

Large files have another host name, as on the real Hub, to see whether a token goes there.
"""
import json
import re
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_api import ROUTES, HubApi, HubError, Repo
from huggingface_hub import constants, file_download

TOKEN = 'hf_annwrite'


@dataclass
class Fault:
    """What goes wrong, for the next `times` requests to `route` whose path matches `path`; for ever with -1.

    'status' answers with `status` and the Hub's error `code`, 'answer' with `body`; 'flip' changes one bit of the body,
    'cut' sends half of it; 'lost' does what was asked for and answers nothing.
    """
    route: str
    kind: str
    times: int = 1
    status: int = 503
    code: str = ''
    path: str = ''
    body: bytes = b'<html>Sign in</html>'


class HubServer(ThreadingHTTPServer):
    """Repos, the large files of all of them, faults, and a log of the requests: (host name, route, token)."""
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url, self.large = (f'http://{host}:{self.server_port}' for host in ('127.0.0.1', 'localhost'))
        self.lock = threading.Lock()
        self.reset()
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def reset(self):
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.hooks: dict[str, Callable[[], object]] = {}  # each called at the next request to a route
        self.headers: dict[str, str] = {}  # that each answer about a file has beside, or in place of, its own
        self.log: list[tuple[str, str, str | None]] = []

    def attract(self, monkeypatch, cache):
        """Have huggingface_hub, which reads its settings when it is imported, take this for the Hub."""
        monkeypatch.setenv('HF_TOKEN', TOKEN)
        monkeypatch.setenv('NO_PROXY', '*')
        for module in (constants, file_download):  # the latter has a copy of the template before 1.0
            template = self.url + '/{repo_id}/resolve/{revision}/{filename}'
            monkeypatch.setattr(module, 'HUGGINGFACE_CO_URL_TEMPLATE', template, raising=False)
        settings = {'ENDPOINT': self.url, 'HF_HUB_CACHE': str(cache), 'HF_TOKEN_PATH': str(cache / 'token'),
                    'HF_HUB_DISABLE_XET': True}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        warnings.filterwarnings('ignore', "Use 'content=", DeprecationWarning)  # httpx, of what the client does
        sleep = time.sleep
        monkeypatch.setattr(time, 'sleep', lambda seconds: sleep(min(seconds, 0.01)))  # before what is tried again

    def close(self):
        self.shutdown()
        self.server_close()

    def requests(self, *routes: str) -> tuple[int, ...]:
        """How many requests there were to each route."""
        return tuple(sum(entry[1] == route for entry in self.log) for route in routes)

    def fault(self, route: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.route == route and fault.times and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None


class Handler(HubApi, BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do(self):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        matches = {r: re.fullmatch(pattern, url.path) for r, (m, pattern) in ROUTES.items() if m == self.command}
        route = next((route for route, match in matches.items() if match), 'unknown')
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        with self.server.lock:
            self.server.log.append((self.headers['Host'].split(':')[0], route, self.headers.get('Authorization')))
            self.server.hooks.pop(route, lambda: None)()
            fault = self.server.fault(route, url.path)
            kind = fault.kind if fault else None
            try:
                if kind == 'status':
                    raise HubError(fault.status, 'refused', fault.code)
                if kind == 'answer':
                    return self.send(200, fault.body)
                if route == 'unknown':
                    raise HubError(404, f'no such page: {self.path}', '')
                parts = {k: unquote(v) for k, v in matches[route].groupdict().items() if v}
                answer = getattr(self, f'on_{route}')(body, **parts)
            except HubError as e:
                status, message, code = e.args
                answer = status, {'error': message}, {'X-Error-Message': message, 'X-Error-Code': code}
        if kind == 'lost':
            self.close_connection = True
        else:
            self.send(*answer, kind=kind)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def send(self, status: int, body: bytes | dict, headers: dict | None = None, kind: str | None = None):
        body, headers = body if isinstance(body, bytes) else json.dumps(body).encode(), headers or {}
        if status == 200 and self.headers.get('Range'):
            start = int(self.headers['Range'].removeprefix('bytes=').split('-')[0])
            headers = headers | {'Content-Range': f'bytes {start}-{len(body) - 1}/{len(body)}'}
            status, body = 206, body[start:]
        half = len(body) // 2
        if kind == 'flip' and status < 300:
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1:]
        self.send_response(status)
        extra = self.server.headers if 'ETag' in headers else {}
        for key, value in ({'Content-Length': str(len(body))} | headers | extra).items():
            self.send_header(key, value)
        self.end_headers()
        self.close_connection = kind == 'cut'
        if self.command != 'HEAD':
            self.wfile.write(body[:half] if kind == 'cut' else body)
