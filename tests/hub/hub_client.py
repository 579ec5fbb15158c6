"""Code run in processes that have a clean environment and their own Hub settings, which the clients read at import.

An import of torch and timm takes seconds, so one process imports them and forks for each piece of code.
"""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORKS = '''
import hashlib, json, os, signal, sys, traceback
if not {plugin}:
    sys.modules['timm_se50'] = None  # as if it were not installed
import huggingface_hub, timm, torch
{setup}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

def digest(model):
    """One hash over all weights."""
    sha = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        sha.update(key.encode() + value.float().numpy().tobytes())
    return sha.hexdigest()

print('ready', flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if os.fork():
        continue
    log = os.open(job['folder'] + '/log', os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    result = {{'error': None, 'message': '', 'out': None}}
    try:
        names = dict(globals(), out=None, **job['vars'])
        exec(job['code'], names)
        result['out'] = names['out']
    except BaseException as e:
        traceback.print_exc()
        result.update(error=[c.__name__ for c in type(e).__mro__], message=str(e))
    sys.stdout.flush()
    with open(job['folder'] + '/new', 'w') as f:
        json.dump(result, f)
    os.rename(job['folder'] + '/new', job['folder'] + '/result')
    os._exit(0)
'''


@dataclass
class Result:
    """What came of a piece of code: its variable `out`, or the error's classes and message; and all it printed."""
    out: object
    error: list[str] | None
    message: str
    log: str


class Job:
    def __init__(self, folder: Path):
        self.folder = folder

    def wait(self, timeout: float = 120) -> Result:
        deadline = time.monotonic() + timeout
        while not (self.folder / 'result').exists():
            assert time.monotonic() < deadline, (self.folder / 'log').read_text()
            time.sleep(0.02)
        return Result(**json.loads((self.folder / 'result').read_text()), log=(self.folder / 'log').read_text())


class Client:
    """A process that talks to the Hub at `url`, with `token` in its environment, and runs `setup` before any fork."""

    def __init__(
            self,
            url: str,
            token: str | None = None,
            setup: str = 'import timm_se50',
            plugin: bool = True,
            **env: str,
    ):
        self.temporary = tempfile.TemporaryDirectory(prefix='hub-client-', ignore_cleanup_errors=True)
        self.folder = Path(self.temporary.name)
        self.env = {
            'PATH': os.environ['PATH'], 'HOME': str(self.folder), 'HF_HOME': str(self.folder / 'hf'),
            'HF_ENDPOINT': url, 'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_TELEMETRY': '1', 'OMP_NUM_THREADS': '1'}
        self.env |= {'HF_TOKEN': token} if token else {}
        self.env |= ({'PYTHONPATH': str(ROOT)} if plugin else {'TIMM_SE50_AUTOLOAD': '0'}) | env
        self.process = subprocess.Popen(
            [sys.executable, '-c', FORKS.format(setup=setup, plugin=plugin)], env=self.env, cwd=self.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = False
        self.jobs = 0
        self.lock = threading.Lock()

    def start(self, code: str, **variables) -> Job:
        """Run code with these variables; it has `timm`, `timm_se50`, `torch`, `huggingface_hub` and `digest(model)`."""
        with self.lock:
            if not self.ready:
                assert self.process.stdout.readline() == 'ready\n'
                self.ready = True
            self.jobs += 1
            folder = self.folder / str(self.jobs)
            folder.mkdir()
            job = {'code': code, 'vars': {k: str(v) if isinstance(v, Path) else v for k, v in variables.items()},
                   'folder': str(folder)}
            print(json.dumps(job), file=self.process.stdin, flush=True)
            return Job(folder)

    def run(self, code: str, **variables) -> Result:
        return self.start(code, **variables).wait()

    def good(self, code: str, **variables):
        """Run code that must succeed, and return its `out`."""
        result = self.run(code, **variables)
        assert result.error is None, result.log
        return result.out

    def close(self):
        self.process.kill()  # nothing to finish, and an interpreter with torch takes seconds to end by itself
        self.process.communicate()
        self.temporary.cleanup()
