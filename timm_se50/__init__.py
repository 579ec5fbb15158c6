"""Squeeze-and-Excitation for pretrained ResNet-50s, as a plugin for timm. Importing it registers the two models."""
import timm  # noqa: F401  # before torch: where another thread is importing timm, this one then waits for it

from .bottleneck import SEBasicBlock, SEBottleneck
from .se_resnet50 import se_resnet50_patch, se_resnet50_replace
from .squeeze_excite import SEConfig, SEModule, se_parameters
from .surgery import patch_blocks_, replace_blocks_
from .weights import map_resnet_weights

__all__ = [
    'SEBasicBlock',
    'SEBottleneck',
    'SEConfig',
    'SEModule',
    'map_resnet_weights',
    'patch_blocks_',
    'replace_blocks_',
    'se_parameters',
    'se_resnet50_patch',
    'se_resnet50_replace',
]
__version__ = '0.1.0.dev0'
