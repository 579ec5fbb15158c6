"""The residual blocks with Squeeze-and-Excitation: one forward each, whichever route put SE in."""
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from .block_weights import is_plain, map_block_weights
from .squeeze_excite import POSITIONS, SEModule

__all__ = ['SEBasicBlock', 'SEBlock', 'SEBottleneck']


class SEBlock(nn.Module):
    """What the two blocks share: an SE module in one of four places.

    There is no constructor: both routes make an SE block of a block that exists, timm's or torchvision's (surgery.py).
    """
    last_conv: str
    last_norm: str
    if TYPE_CHECKING:  # TorchScript would read these as attribute types
        aa: Any  # timm's says: maybe None
        def __getattr__(self, name: str) -> Any: ...

    def attach_se(self, se: SEModule, position: str) -> None:
        """Take `se` in at `position`."""
        for name in POSITIONS.values():
            setattr(self, name, None)  # TorchScript then leaves the branches of the other three out
        setattr(self, POSITIONS[position], se)
        # Right behind the last norm, where timm's seresnet50 has it: parameters() and so an optimizer's state have
        # its order.
        names = list(self._modules)
        for name in names[names.index(self.last_norm) + 1:-1]:
            self._modules[name] = self._modules.pop(name)

    @property
    def se_position(self) -> str:
        """Where the SE module is, a key of `POSITIONS`."""
        return next(position for position, name in POSITIONS.items() if getattr(self, name) is not None)

    def fuse(self) -> nn.Module:
        """The block's inference form; `timm.utils.reparameterize_model()` looks for this name."""
        from .inference import fuse_block
        return fuse_block(self)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, *args):
        # Here and not in the model, so that it holds whatever loads the block: the model, a stage of it, a detector
        own = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        plain = is_plain(own, self)
        if plain and local_metadata.get('assign_to_params_buffers', False):
            # the others become what is loaded: SE goes where that is, in its dtype, and off the meta device
            getattr(self, POSITIONS[self.se_position]).to(next(v for v in own.values() if v.is_floating_point()))
        if not plain or (strict and _is_strict()):  # else SE stays as it is, and is among the missing keys
            mapped = map_block_weights(own, self)
            for name in own.keys() - mapped.keys():
                del state_dict[prefix + name]
            state_dict.update((prefix + name, v) for name, v in mapped.items())
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    __jit_unused_properties__: ClassVar[list[str]] = ['se_position']


def _is_strict() -> bool:
    """Whether the `load_state_dict()` under way is strict: torch tells each module that it is, in any case."""
    frame = inspect.currentframe()
    while frame and not (frame.f_code.co_name == 'load_state_dict' and 'strict' in frame.f_locals):
        frame = frame.f_back
    return frame is None or frame.f_locals['strict']


class SEBottleneck(SEBlock, Bottleneck):
    """timm's `Bottleneck` with Squeeze-and-Excitation."""
    last_conv = 'conv3'
    last_norm = 'bn3'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.se_pre is not None:
            x = self.se_pre(x)

        x = self.conv1(x)
        x = self.bn1(x)
        x = self.act1(x)

        x = self.conv2(x)
        x = self.bn2(x)
        x = self.drop_block(x)
        x = self.act2(x)
        x = self.aa(x)

        x = self.conv3(x)
        x = self.bn3(x)

        if self.se_standard is not None:
            x = self.se_standard(x)

        if self.drop_path is not None:
            x = self.drop_path(x)

        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        if self.se_identity is not None:
            shortcut = self.se_identity(shortcut)
        x += shortcut
        x = self.act3(x)

        if self.se_post is not None:
            x = self.se_post(x)

        return x


class SEBasicBlock(SEBlock, BasicBlock):
    """timm's `BasicBlock` with Squeeze-and-Excitation."""
    last_conv = 'conv2'
    last_norm = 'bn2'

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x
        if self.se_pre is not None:
            x = self.se_pre(x)

        x = self.conv1(x)
        x = self.bn1(x)
        x = self.drop_block(x)
        x = self.act1(x)
        x = self.aa(x)

        x = self.conv2(x)
        x = self.bn2(x)

        if self.se_standard is not None:
            x = self.se_standard(x)

        if self.drop_path is not None:
            x = self.drop_path(x)

        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        if self.se_identity is not None:
            shortcut = self.se_identity(shortcut)
        x += shortcut
        x = self.act2(x)

        if self.se_post is not None:
            x = self.se_post(x)

        return x
