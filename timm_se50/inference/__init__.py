"""The form of a model for inference, which `timm.models.reparameterize_model()` asks for."""
from .fuse import InferenceBottleneck, fuse_block
from .inplace_norm import fuse_norm

__all__ = ['InferenceBottleneck', 'fuse_block', 'fuse_norm']
