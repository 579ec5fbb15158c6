"""Squeeze-and-Excitation: the settings and the module.

Paper: `Squeeze-and-Excitation Networks` - https://arxiv.org/abs/1709.01507
"""
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

__all__ = ['LOGIT_SCALE', 'POSITIONS', 'SE_WEIGHTS', 'SEConfig', 'SEModule', 'ZeroConv2d', 'se_parameters']

# Where a block holds its SE module (section 6.5 and figure 5 of the paper) -> the name it holds it under. A name of
# its own for each position keeps weights trained at one position from being loaded at another without a word, and none
# is timm's `se`, whose gate is another.
POSITIONS = {'standard': 'se_standard', 'pre': 'se_pre', 'post': 'se_post', 'identity': 'se_identity'}
SE_WEIGHTS = ('fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias')

# What a neutral gate's logit is multiplied by, so that it travels: SGD moves the gate by its square as far, Adam in
# proportion. A power of two changes no digit, so that a trained network folds into the paper's form exactly.
LOGIT_SCALE = 4.0


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


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts at zero, whoever initializes it."""

    def reset_parameters(self) -> None:
        """Be zero, by the tensors' own method: torch.nn.init is switched off by who has weights to load."""
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):  # not what a parametrization made of them
                parameter.zero_()

    zero_init_last = reset_parameters  # timm's ResNet.init_weights() draws every convolution, then calls this


class SEModule(nn.Module):
    """Squeeze (mean over H, W), excite (fc1, ReLU, fc2, sigmoid), scale (section 3 of the paper).

    By itself it is the paper's module: its gate is `sigmoid(fc2(relu(fc1(mean(x)))))`. A *neutral* one, which surgery
    puts into a trained network, has the gate `2 * sigmoid(4 * fc2(...))` and starts with a zero `fc2`, so that the gate
    is exactly 1, and at its steepest.

    Args:
        channels: Number of channels C of the input.
        reduction: Ratio r; the hidden width is C // r, and r must divide C.
        neutral: Start neutral.
        number: Of a neutral module within its ResNet. Its `fc1` is drawn from a generator of its own, whose seed is
            `torch.initial_seed()` plus this: no global random number is used up, and no two modules are alike.

    Raises:
        ValueError: `reduction` does not divide `channels`.
    """

    def __init__(
            self, channels: int, reduction: int = 16, neutral: bool = False, *, number: int = 0, device=None,
            dtype=None):
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f'se_reduction={reduction}: does not divide the {channels} channels of this block; '
                             'expected a divisor, for example 4, 8 or 16.')
        self.neutral, self.number = neutral, number
        self.logit_scale, self.gate_scale = (LOGIT_SCALE, 2.0) if neutral else (1.0, 1.0)
        # as allocated, and drawn below: with no global random number, and whatever switches torch.nn.init off
        dd: dict[str, Any] = {'device': torch.get_default_device() if device is None else device, 'dtype': dtype}
        self.fc1 = nn.utils.skip_init(nn.Conv2d, channels, channels // reduction, kernel_size=1, **dd)
        self.act = nn.ReLU()  # not in place: selective activation checkpointing keeps what fc1 gave
        second = ZeroConv2d if neutral else nn.Conv2d
        self.fc2 = nn.utils.skip_init(second, channels // reduction, channels, kernel_size=1, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start anew: fc1 is drawn, and a neutral fc2 is zero."""
        if type(self.fc1) is nn.Conv2d and not self.fc1.weight.is_meta:  # with an adapter it is not ours to draw
            self._draw_fc1()
        if isinstance(self.fc2, nn.Conv2d):
            self.fc2.reset_parameters()

    @torch.no_grad()
    def _draw_fc1(self) -> None:
        """Draw fc1 as timm's ResNet.init_weights() and nn.Conv2d do, the same numbers on each device, in each dtype."""
        seed = torch.initial_seed()
        seed = self.number + (seed if seed < 2 ** 32 else 0)  # a longer one PyTorch itself drew: nobody has set any
        generator = torch.Generator().manual_seed(seed) if self.neutral else None
        hidden, channels = self.fc1.weight.shape[:2]
        weight, bias = (torch.empty(p.shape, device='cpu', dtype=torch.float32) for p in self.fc1.parameters())
        weight.normal_(0, (2 / hidden) ** 0.5, generator=generator)
        bias.uniform_(-channels ** -0.5, channels ** -0.5, generator=generator)
        for parameter, value in ((self.fc1.weight, weight), (self.fc1.bias, bias)):
            value = value.to(parameter.device, parameter.dtype)
            if hasattr(parameter, 'device_mesh'):  # sharded (FSDP2); its module takes half a second to import
                from torch.distributed.tensor import distribute_tensor
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)

    def init_non_persistent_buffers(self) -> None:
        """Start anew where transformers has just given fc1 and fc2 random weights, which a plain ResNet's file lacks.

        It makes a model without memory, and marks what it loads, and each module when it is done with it, the inner
        ones first. timm's name for the hook: `timm.models.reinit_non_persistent_buffers()`, too, calls it at any time.
        """
        marked = [getattr(x, '_is_hf_initialized', False) for x in (self.fc2, self, *self.parameters())]
        if marked[0] and not any(marked[1:]):
            self.reset_parameters()

    def _apply(self, fn, recurse=True):
        # What is on the meta device has no data to move: it starts anew where it is moved to (to_empty(), accelerate)
        had_no_data = any(p.is_meta for p in self.parameters())
        try:
            super()._apply(fn, recurse)
        except NotImplementedError:
            if not had_no_data:
                raise
            super()._apply(lambda x: fn(torch.empty_like(x, device='cpu')), recurse)
        if had_no_data and not any(p.is_meta for p in self.parameters()):
            self.reset_parameters()
        return self

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """The gate, (N, C, 1, 1), of an input of (N, C, H, W)."""
        x = x.mean((2, 3), keepdim=True)
        x = self.fc2(self.act(self.fc1(x)))
        return (x * self.logit_scale).sigmoid() * self.gate_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


def se_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all SE modules in a model, for an optimizer's parameter group or to train nothing else."""
    return [p for m in model.modules() if isinstance(m, SEModule) for p in m.parameters()]
