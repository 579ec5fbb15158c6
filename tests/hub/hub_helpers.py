"""What the tests of the Hub share."""
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

# `model` is there in each fork, and `push()` and `pull()` return what JSON can hold
SETUP = """
import dataclasses
import timm_se50

model = timm.create_model('local-dir:{local}', pretrained=True).bfloat16()

def push(model, repo, **options):
    return dataclasses.asdict(timm_se50.push_to_hub(model, repo, **options)) | {{'digest': digest(model)}}

def pull(repo, cache, **options):
    return digest(timm_se50.pull_from_hub(repo, cache_dir=cache, **options))

def file_digest(folder):
    with open(f'{{folder}}/model.safetensors', 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()
"""


def run_all(run, cases):
    """`run(case)` for all cases, some at once, since most of their time is spent waiting; the results by case."""
    with ThreadPoolExecutor(10) as pool:
        return dict(zip(cases, pool.map(run, cases)))


def in_repo(repo, faults):
    """The same faults for the requests to one repo only."""
    return [replace(fault, path=rf'{repo}\b.*{fault.path}') for fault in faults]


def no_more_faults(server, repo):
    """All is well with one repo from now on, whatever other threads do with theirs."""
    for fault in server.faults:
        if repo in fault.path:
            fault.times = 0


def requests(server, *routes):
    """How many requests there were to each route."""
    return tuple(sum(entry[1] == route for entry in server.log) for route in routes)
