"""These tests are of the real width, since kernels and their rounding turn on it."""
import pytest


@pytest.fixture
def create(create50):
    return create50
