"""Damaged files: each is loaded as it was, refused by name, or differs in numbers that nothing tells from others."""
import json
import struct
import warnings

import pytest
import timm
import torch
from hypothesis import strategies as st
from mutations import COUNTS, SMALL, fuzz, mutated_bytes, mutated_json
from safetensors.torch import load_file

from timm_se50.checkpoint import load_model


def outcome(load, place, weights) -> str:
    """Load, and say what came of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = load()
    except (OSError, ValueError, RuntimeError) as e:
        return 'refused by name' if str(place) in str(e) else f'{type(e).__name__} without a name: {e}'
    found = model.state_dict()
    assert found.keys() == weights.keys()
    assert all(v.shape == weights[k].shape for k, v in found.items())
    same = all(torch.equal(v, weights[k]) for k, v in found.items())
    return 'equal' if same else 'differs in numbers only'


@pytest.fixture(scope='module')
def weights(small):
    return load_file(small / 'model.safetensors')


def test_safetensors(length, small, weights, tmp_path):
    """Bytes are changed, or the header, which then states its own length."""
    path = tmp_path / 'model.safetensors'
    (tmp_path / 'config.json').write_bytes((small / 'config.json').read_bytes())
    base = (small / 'model.safetensors').read_bytes()
    size, = struct.unpack('<Q', base[:8])

    def assemble(header):
        text = json.dumps(header).encode()
        return struct.pack('<Q', len(text)) + text + base[8 + size:]

    def check(content):
        path.write_bytes(content)
        return outcome(lambda: timm.create_model(f'local-dir:{tmp_path}', pretrained=True), tmp_path, weights)
    files = st.one_of(mutated_bytes(base), mutated_json(json.loads(base[8:8 + size])).map(assemble))
    fuzz('safetensors', files, COUNTS[length], check)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_torch_files(zipped, length, weights, tmp_path):
    path = tmp_path / 'model.pth'
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)

    def check(content):
        path.write_bytes(content)
        overlay = dict(file=str(path), num_classes=3)
        return outcome(lambda: timm.create_model(
            'se_resnet50_patch', pretrained=True, pretrained_cfg_overlay=overlay, **SMALL), path, weights)
    fuzz(f'torch {"zip" if zipped else "legacy"}', mutated_bytes(path.read_bytes()), COUNTS[length] // 2, check)


def test_config(length, small, weights, tmp_path):
    (tmp_path / 'model.safetensors').symlink_to(small / 'model.safetensors')
    base = (small / 'config.json').read_bytes()

    def check(content):
        (tmp_path / 'config.json').write_bytes(content)
        return outcome(lambda: load_model(str(tmp_path)), tmp_path, weights)
    texts = st.one_of(mutated_bytes(base), *[mutated_json(json.loads(base)).map(lambda c: json.dumps(c).encode())] * 3)
    found = fuzz('config.json', texts, COUNTS[length], check)
    assert not found['differs in numbers only']  # no weight may hang on what a config says
