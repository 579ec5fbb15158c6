"""The memory formats, and what the functions do of channels_last where maps are large: a sample at a time."""
import pytest
import torch

from timm_se50.memory_efficient import batch_norm

FORMATS = {
    'contiguous': (torch.contiguous_format, batch_norm.MIN_NUMBERS),
    'channels_last': (torch.channels_last, 1 << 60),
    'channels_last, a sample at a time': (torch.channels_last, 0),
}


@pytest.fixture(params=FORMATS)
def layout(request, monkeypatch):
    memory_format, numbers = FORMATS[request.param]
    monkeypatch.setattr(batch_norm, 'MIN_NUMBERS', numbers)
    return memory_format
