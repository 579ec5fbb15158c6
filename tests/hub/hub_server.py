"""A Hub on the loopback that the real huggingface_hub and timm clients talk to through HF_ENDPOINT.

Large files lie on a second server with an origin of its own, as on the real Hub, to see whether a token goes there.
"""
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_api import ROUTES, HubApi
from hub_repos import Hub, HubError


@dataclass
class Fault:
    """What goes wrong, for the next `times` requests to `route` whose path matches `path`.

    `status` answers with that status; 'fin' and 'rst' end the connection `after` bytes of the body; 'truncate' states
    and sends `after` bytes only; 'flip' changes one bit of the body, sent or received; 'lost' does what was asked for
    and ends the connection without an answer; 'answer' answers with `body`.
    """
    route: str
    kind: str
    times: int = 1
    status: int = 503
    after: int = 0
    path: str = ''
    body: bytes = b''


class HubServer:
    """The two servers, what they store, what is to go wrong, and a log of the requests: (host, route, path, token)."""

    def __init__(self, tokens: dict[str, tuple[str, str]]):
        self.hub = Hub(tokens)
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, str, str | None]] = []
        self.hooks: dict[str, Callable[[], object]] = {}  # each called at the next request to a route
        self.headers: dict[str, str] = {}  # that each answer about a file has beside, or in place of, its own
        self.lock = threading.Lock()
        self.servers = {}
        for host in ('hub', 'cdn'):
            handler = type('Handler', (_Handler,), {'owner': self, 'host': host})
            server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True).start()
            self.servers[host] = server
        self.hub.url, self.cdn = (f'http://127.0.0.1:{s.server_port}' for s in self.servers.values())
        self.url = self.hub.url

    def close(self):
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def fault(self, route: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.route == route and fault.times and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class _Handler(HubApi, BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    owner: HubServer
    host: str

    def log_message(self, *args):
        pass

    def do(self):
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
        self.token = (self.headers.get('Authorization') or '').removeprefix('Bearer ') or None
        matches = ((r, re.fullmatch(pattern, url.path)) for r, (m, pattern) in ROUTES.items() if m == self.command)
        route, match = next(((route, match) for route, match in matches if match), ('unknown', None))
        self.owner.log.append((self.host, route, url.path, self.token))
        self.owner.hooks.pop(route, lambda: None)()
        self.fault = self.owner.fault(route, url.path)
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.fault and self.fault.kind == 'status':
            return self.send(self.fault.status, b'<html>try later</html>', {'Content-Type': 'text/html'})
        if self.fault and self.fault.kind == 'answer':
            return self.send(200, self.fault.body, {'Content-Type': 'application/json'})
        if self.fault and self.fault.kind == 'flip' and self.command in ('PUT', 'POST'):
            body = flip(body)
        elif self.fault and self.fault.kind in ('fin', 'rst') and self.command in ('PUT', 'POST'):
            return self.hang_up()
        if match is None:
            return self.send(404, {'error': f'no such page: {self.path}'})
        try:
            with self.owner.lock:
                parts = {k: unquote(v) for k, v in match.groupdict().items() if v}
                answer = getattr(self, f'on_{route}')(body, **parts)
        except HubError as e:
            headers = {'X-Error-Message': e.message} | ({'X-Error-Code': e.code} if e.code else {})
            return self.send(e.status, {'error': e.message} | e.more, headers)
        if self.fault and self.fault.kind == 'lost':
            return self.hang_up()
        self.send(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = do

    def send(self, status: int, body: bytes | dict | list, headers: dict | None = None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        if status == 200 and self.headers.get('Range'):
            start = int(self.headers['Range'].removeprefix('bytes=').split('-')[0])
            headers = (headers or {}) | {'Content-Range': f'bytes {start}-{len(body) - 1}/{len(body)}'}
            status, body = 206, body[start:]
        if self.fault and self.fault.kind == 'flip' and self.command == 'GET' and status < 300:
            body = flip(body)
        if self.fault and self.fault.kind == 'truncate':
            body = body[:self.fault.after]
        extra = self.owner.headers if headers and 'ETag' in headers else {}
        self.send_response(status)
        for key, value in ({'Content-Length': str(len(body))} | (headers or {}) | extra).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        if self.fault and self.fault.kind in ('fin', 'rst'):
            self.wfile.write(body[:self.fault.after])
            return self.hang_up()
        try:
            self.wfile.write(body)
        except ConnectionError:  # the client gave up; part of some tests
            self.close_connection = True

    def hang_up(self):
        self.wfile.flush()
        if self.fault.kind == 'rst':
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_WR)
        self.close_connection = True


def flip(body: bytes) -> bytes:
    """One bit changed, in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1:]
