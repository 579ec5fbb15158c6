"""Squeeze-and-Excitation for pretrained ResNet-50s, as a plugin for timm. Importing it registers the two models."""
import timm  # noqa: F401  # before torch: where another thread is importing timm, this one then waits for it

from .bottleneck import SEBasicBlock, SEBottleneck
from .card import CardConfig
from .checkpoint import save_checkpoint
from .hub import download_checkpoint, pull_from_hub
from .hub_push import Pushed, push_to_hub
from .memory_efficient import set_memory_efficient
from .se_resnet50 import se_resnet50_patch, se_resnet50_replace
from .squeeze_excite import SEConfig, SEModule, se_parameters
from .surgery import patch_blocks_, replace_blocks_
from .weights import map_resnet_weights

__all__ = [
    'CardConfig',
    'Pushed',
    'SEBasicBlock',
    'SEBottleneck',
    'SEConfig',
    'SEModule',
    'download_checkpoint',
    'map_resnet_weights',
    'patch_blocks_',
    'pull_from_hub',
    'push_to_hub',
    'replace_blocks_',
    'save_checkpoint',
    'se_parameters',
    'se_resnet50_patch',
    'se_resnet50_replace',
    'set_memory_efficient',
]
__version__ = '0.1.0.dev0'
