"""Squeeze-and-Excitation: the settings and the module.

Paper: `Squeeze-and-Excitation Networks` - https://arxiv.org/abs/1709.01507
"""
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

__all__ = ['POSITIONS', 'SEConfig', 'SEModule', 'se_parameters']

# Where a block holds its SE module (section 6.5 and figure 5 of the paper) -> the name it holds it under. A name of
# its own for each position keeps weights trained at one position from being loaded at another without a word.
POSITIONS = {'standard': 'se', 'pre': 'se_pre', 'post': 'se_post', 'identity': 'se_identity'}


@dataclass(frozen=True)
class SEConfig:
    """How Squeeze-and-Excitation goes into a ResNet; plain JSON by `dataclasses.asdict`, and back by `SEConfig(**d)`.

    Args:
        reduction: Ratio r of a block's channels to the hidden width of its SE module (section 3.2), one for all
            stages or a sequence with one for each entry of `stages`.
        stages: Stages to put SE into, 1 (`layer1`) to 4 (`layer4`), in ascending order.
        position: 'standard' (after the residual branch), 'pre' (before it), 'post' (after the addition and its
            activation) or 'identity' (on the shortcut): the paper's SE, SE-PRE, SE-POST, SE-Identity (section 6.5).

    Raises:
        ValueError: An argument is none of the above; the message names it.
    """
    reduction: int | tuple[int, ...] = 16
    stages: tuple[int, ...] = (1, 2, 3, 4)
    position: str = 'standard'

    def __post_init__(self):
        stages = tuple(self.stages) if isinstance(self.stages, (list, tuple)) else ()
        if (
            not stages or any(type(s) is not int or s not in (1, 2, 3, 4) for s in stages)
            or any(a >= b for a, b in zip(stages, stages[1:]))
        ):
            raise ValueError(
                f'se_stages={self.stages!r}: expected a non-empty, ascending sequence of stages from 1 to 4, '
                'for example (3, 4).')
        reduction = tuple(self.reduction) if isinstance(self.reduction, list) else self.reduction
        each = reduction if isinstance(reduction, tuple) else (reduction,) * len(stages)
        if len(each) != len(stages):
            raise ValueError(
                f'se_reduction={self.reduction!r}: expected one int, or {len(stages)} of them, '
                f'one for each of se_stages={stages}.')
        if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in each):
            raise ValueError(f'se_reduction={self.reduction!r}: expected ints of at least 1, for example 16.')
        if self.position not in tuple(POSITIONS):
            raise ValueError(f'se_position={self.position!r}: expected one of {", ".join(map(repr, POSITIONS))}.')
        object.__setattr__(self, 'stages', stages)
        object.__setattr__(self, 'reduction', reduction)

    def model_args(self) -> dict[str, Any]:
        """The same as arguments of `timm.create_model()`."""
        return {f'se_{k}': v for k, v in asdict(self).items()}

    def stage_reductions(self) -> Iterator[tuple[int, int]]:
        """Yield (stage, reduction) for each stage that gets SE."""
        reduction = self.reduction if isinstance(self.reduction, tuple) else (self.reduction,) * len(self.stages)
        yield from zip(self.stages, reduction)


class SEModule(nn.Module):
    """Squeeze (mean over H, W), excite (fc1, ReLU, fc2, sigmoid), scale (section 3 of the paper).

    Args:
        channels: Number of channels C of the input.
        reduction: Ratio r; the hidden width is C // r, and r must divide C.
        gate_scale: What the sigmoid is multiplied by. The paper's gate is 1.0 times the sigmoid; with 2.0 a zero
            `fc2` gives a gate of exactly 1, the neutral gate of positions with no normalization layer before them.

    Raises:
        ValueError: `reduction` does not divide `channels`.
    """

    def __init__(self, channels: int, reduction: int = 16, gate_scale: float = 1.0, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(
                f'se_reduction={reduction}: does not divide the {channels} channels of this block; '
                'expected a divisor, for example 4, 8 or 16.')
        self.gate_scale = gate_scale
        self.fc1 = nn.Conv2d(channels, channels // reduction, kernel_size=1, **dd)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(channels // reduction, channels, kernel_size=1, **dd)
        for fc in (self.fc1, self.fc2):
            _init_weights(fc)

    def _apply(self, fn, recurse=True):
        on_meta = [fc for fc in (self.fc1, self.fc2) if type(fc) is nn.Conv2d and fc.weight.is_meta]
        super()._apply(fn, recurse)
        for fc in on_meta:
            if not fc.weight.is_meta:  # to_empty(): a plain ResNet's weights would leave it so
                fc.reset_parameters()
                _init_weights(fc)
        return self

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """The gate, (N, C, 1, 1), of an input of (N, C, H, W)."""
        x = x.mean((2, 3), keepdim=True)
        x = self.fc2(self.act(self.fc1(x))).sigmoid()
        return x if self.gate_scale == 1.0 else x * self.gate_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


def _init_weights(fc: nn.Conv2d) -> None:
    """As timm's ResNet.init_weights() does for every convolution."""
    nn.init.kaiming_normal_(fc.weight, mode='fan_out', nonlinearity='relu')


def se_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all SE modules in a model, for an optimizer's parameter group or to train nothing else."""
    return [p for m in model.modules() if isinstance(m, SEModule) for p in m.parameters()]
