"""The form of a model for inference, which `timm.utils.reparameterize_model()` asks for."""
from .fuse import InferenceBottleneck, fuse_block

__all__ = ['InferenceBottleneck', 'fuse_block']
