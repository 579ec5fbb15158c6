"""The memory formats, and what the functions do of channels_last: where maps are large norms a sample at a time, where
they are small matrix products."""
import pytest
import torch

from timm_se50.memory_efficient import batch_norm, convolution

FORMATS = {
    'contiguous': (torch.contiguous_format, batch_norm.MIN_NUMBERS, convolution.MAX_PIXELS),
    'channels_last, small': (torch.channels_last, 1 << 60, 1 << 60),
    'channels_last, large': (torch.channels_last, 0, 0),
}


@pytest.fixture(params=FORMATS)
def layout(request, monkeypatch):
    memory_format, numbers, pixels = FORMATS[request.param]
    monkeypatch.setattr(batch_norm, 'MIN_NUMBERS', numbers)
    monkeypatch.setattr(convolution, 'MAX_PIXELS', pixels)
    return memory_format
