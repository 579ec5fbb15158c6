"""Squeeze-and-Excitation for pretrained ResNets, as a plugin for timm. Importing it registers the two models."""
import importlib
from typing import TYPE_CHECKING, Any

import timm  # noqa: F401  # before torch: where another thread is importing timm, this one then waits for it

from .bottleneck import SEBasicBlock, SEBottleneck
from .squeeze_excite import SEConfig, SEModule, se_parameters
from .surgery import patch_blocks_, replace_blocks_
from .weights import map_resnet_weights

# isort: split
# last, since its last lines register the models: an import that fails leaves timm as it was
from .se_resnet50 import se_resnet50_patch, se_resnet50_replace

if TYPE_CHECKING:
    from .checkpoint import CardConfig, save_checkpoint
    from .hub import Pushed, download_checkpoint, pull_from_hub, push_to_hub
    from .memory_efficient import set_memory_efficient
    from .param_groups import param_groups, train_only_se_

__all__ = [
    'CardConfig',
    'Pushed',
    'SEBasicBlock',
    'SEBottleneck',
    'SEConfig',
    'SEModule',
    'download_checkpoint',
    'map_resnet_weights',
    'param_groups',
    'patch_blocks_',
    'pull_from_hub',
    'push_to_hub',
    'replace_blocks_',
    'save_checkpoint',
    'se_parameters',
    'se_resnet50_patch',
    'se_resnet50_replace',
    'set_memory_efficient',
    'train_only_se_',
]
__version__ = '0.1.0.dev0'

# Imported when they are asked for (PEP 562): `import timm` pays for the core alone.
_WINGS = {
    'CardConfig': 'checkpoint',
    'Pushed': 'hub',
    'download_checkpoint': 'hub',
    'param_groups': 'param_groups',
    'pull_from_hub': 'hub',
    'push_to_hub': 'hub',
    'save_checkpoint': 'checkpoint',
    'set_memory_efficient': 'memory_efficient',
    'train_only_se_': 'param_groups',
}


def __getattr__(name: str) -> Any:
    if name not in _WINGS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'.{_WINGS[name]}', __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
