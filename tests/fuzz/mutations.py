"""Mutations of bytes and of JSON, as hypothesis strategies."""
import collections
import copy
import json
import os

from hypothesis import HealthCheck, given, seed, settings, strategies as st

SMALL = dict(layers=(1, 1, 1, 1), channels=(16, 16, 16, 16), num_classes=3, se_reduction=4)  # 0.2 MB
COUNTS = {'short': 300, 'long': int(os.environ.get('FUZZ_EXAMPLES', 18_000))}

# The first bytes hold a safetensors header or the pickle in a torch zip, the last ones a zip's directory
_POSITIONS = st.one_of(st.integers(0, 200), st.integers(0, 12_000), st.integers(-6000, -1), st.integers(0, 1 << 22))
_BYTES = st.one_of(
    st.binary(max_size=9), st.sampled_from([b'\0' * 8, b'\xff' * 8, b'{', b'}', b'"', b'\xc3\x28', b'-1']))
# What is put at a position, and how many bytes go for it: as many, none, some or all that follow
_LENGTHS = st.one_of(st.none(), st.just(0), st.integers(0, 300), st.just(1 << 22))
_CHANGES = st.lists(st.tuples(_POSITIONS, _BYTES, _LENGTHS), min_size=1, max_size=3)
_DEEP = json.loads('[' * 200 + ']' * 200)
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=5),
    st.sampled_from([2**31, 2**63, 10**30, -2**63, 1 << 20, 1000, 64, '', 'x' * 2000, '../../x', '/etc/passwd', [], {},
                     [1], [1, 1, 1, 1], [-1, 0, 0, 0], {'a': 1}, _DEEP, 'fc', 'conv1', 'layer1', 'meta', 'F16', 'I64']))


def mutated_bytes(base: bytes) -> st.SearchStrategy[bytes]:
    """`base` with one to three changes."""
    def change(changes):
        data = base
        for position, new, length in changes:
            at = position % (len(data) + 1)
            data = data[:at] + new + data[at + (len(new) if length is None else length):]
        return data
    return _CHANGES.map(change)


def mutated_json(base) -> st.SearchStrategy:
    """A JSON value with one to three of its nodes replaced, removed, renamed or put in another's place."""
    kinds = st.sampled_from(['value', 'value', 'remove', 'rename', 'swap'])
    changes = st.lists(st.tuples(st.integers(0, 1 << 20), kinds, _VALUES), min_size=1, max_size=3)
    return changes.map(lambda changes: _change(base, changes))


def _change(base, changes):
    root = [copy.deepcopy(base)]
    for number, kind, value in changes:
        places = list(_places(root))
        parent, key = places[number % len(places)]
        if kind == 'remove' and parent is not root:
            del parent[key]
        elif kind == 'rename' and isinstance(parent, dict):
            parent[f'{key}x' if value is None else str(value)[:40]] = parent.pop(key)
        elif kind == 'swap':
            other, name = places[number * 7919 % len(places)]
            parent[key] = copy.deepcopy(other[name])
        else:
            parent[key] = value
    return root[0]


def _places(node):
    keys = node if isinstance(node, dict) else range(len(node))
    for key in list(keys):
        yield node, key
        if isinstance(node[key], (dict, list)) and node[key] is not _DEEP:
            yield from _places(node[key])


def fuzz(kind, strategy, examples, check):
    """Count what `check` says of so many examples, always the same ones; `pytest -s` shows it."""
    found = collections.Counter()

    @seed(50)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example):
        found[check(example)] += 1

    run()
    print(f'\nfuzz {kind}: {dict(found)}')
    assert found.total() >= examples * 0.9
    assert found.keys() <= {'refused by name', 'equal', 'differs in numbers only'}, found
    assert found['refused by name'] > 0
    return found
