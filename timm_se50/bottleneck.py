"""The residual blocks with Squeeze-and-Excitation: one forward each, whichever route put SE in."""
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from . import memory_efficient
from .inference.fuse import fuse_block
from .squeeze_excite import POSITIONS, SEModule

__all__ = ['SEBasicBlock', 'SEBlock', 'SEBottleneck']


class SEBlock(nn.Module):
    """What the two blocks share: an SE module in one of four places.

    There is no constructor: both routes make an SE block of a timm block that exists (see surgery.py).
    """
    last_conv: str
    last_norm: str
    if TYPE_CHECKING:  # TorchScript would read these as attribute types, and a 'type: ignore' as a signature
        aa: Any  # timm's says: maybe None
        conv1: nn.Conv2d
        se: nn.Module | None
        se_pre: nn.Module | None
        se_post: nn.Module | None
        se_identity: nn.Module | None
        downsample: nn.Module | None
        drop_path: nn.Module | None

    def attach_se(self, se: SEModule, position: str) -> None:
        """Take `se` in at `position`."""
        for name in POSITIONS.values():
            setattr(self, name, None)  # TorchScript then leaves the branches of the other three out
        setattr(self, POSITIONS[position], se)
        # Right behind the last norm, where timm has it: state dict, parameters() and so an optimizer's state have
        # the order of timm's seresnet50.
        names = list(self._modules)
        for name in names[names.index(self.last_norm) + 1:-1]:
            self._modules[name] = self._modules.pop(name)

    @property
    def se_position(self) -> str:
        """Where the SE module is, a key of `POSITIONS`."""
        return next(position for position, name in POSITIONS.items() if getattr(self, name) is not None)

    def fuse(self) -> nn.Module:
        """The block's inference form; `timm.models.reparameterize_model()` looks for this name."""
        return fuse_block(self)

    __jit_unused_properties__: ClassVar[list[str]] = ['se_position']


class SEBottleneck(SEBlock, Bottleneck):
    """timm's `Bottleneck` with Squeeze-and-Excitation."""
    last_conv = 'conv3'
    last_norm = 'bn3'
    memory_efficient = False  # see set_memory_efficient()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102  # TorchScript leaves the branch of a lone test out
            if memory_efficient.is_applicable(self, x):
                return memory_efficient.forward(self, x)

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

        if self.se is not None:
            x = self.se(x)

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

        if self.se is not None:
            x = self.se(x)

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
