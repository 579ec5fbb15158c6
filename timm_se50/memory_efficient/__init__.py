"""Training that saves less for the backward pass."""
from .blocks import set_memory_efficient

__all__ = ['set_memory_efficient']
