"""What the tests of the Hub share."""
from timm_se50.hub.verified import file_hash

# `model` is there in each fork, and `push()` and `pull()` return what JSON can hold
SETUP = """
import dataclasses
import timm_se50

model = timm.create_model('local-dir:{local}', pretrained=True).bfloat16()

def push(model, repo, **options):
    return dataclasses.asdict(timm_se50.push_to_hub(model, repo, **options)) | {{'digest': digest(model)}}

def pull(repo, cache, **options):
    return digest(timm_se50.pull_from_hub(repo, cache_dir=cache, **options))
"""
PULL = 'out = pull(repo, cache)'


def requests(server, *routes):
    """How many requests there were to each route."""
    return tuple(sum(entry[1] == route for entry in server.log) for route in routes)


def check_cache(cache):
    """No bytes in the cache under a hash that is not theirs, which another program would load."""
    blobs = list(cache.rglob('blobs/*'))
    assert [file_hash(b, b.name) for b in blobs if '.' not in b.name] == [b.name for b in blobs if '.' not in b.name]
