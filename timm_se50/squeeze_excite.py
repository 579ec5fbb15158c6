"""Squeeze-and-Excitation: the settings and the module.

Paper: `Squeeze-and-Excitation Networks` - https://arxiv.org/abs/1709.01507
"""
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

__all__ = ['LOGIT_SCALE', 'POSITIONS', 'SE_WEIGHTS', 'SEConfig', 'SEModule', 'like_parameter', 'se_parameters']

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


class SEModule(nn.Module):
    """Squeeze (mean over H, W), excite (fc1, ReLU, fc2, sigmoid), scale (section 3 of the paper).

    By itself it is the paper's module: its gate is `sigmoid(fc2(relu(fc1(mean(x)))))`. A *neutral* one, which surgery
    puts into a trained network, has the gate `2 * sigmoid(4 * fc2(...))` and starts with a zero `fc2`, so that the gate
    is exactly 1, and at its steepest.

    Args:
        channels: Number of channels C of the input.
        reduction: Ratio r; the hidden width is C // r, and r must divide C.
        neutral: Start neutral.
        seed: Of a neutral module's `fc1`, which is drawn from a generator of its own: the network that a file of plain
            weights gives does not depend on the global seed.

    Raises:
        ValueError: `reduction` does not divide `channels`.
    """

    def __init__(
            self, channels: int, reduction: int = 16, neutral: bool = False, *, seed: int = 0, device=None, dtype=None):
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f'se_reduction={reduction}: does not divide the {channels} channels of this block; '
                             'expected a divisor, for example 4, 8 or 16.')
        self.neutral, self.seed = neutral, seed
        self.logit_scale, self.gate_scale = (LOGIT_SCALE, 2.0) if neutral else (1.0, 1.0)
        # as allocated: neither time nor the global generator's numbers go into weights that are drawn below
        dd = {'device': torch.get_default_device() if device is None else device, 'dtype': dtype}
        self.fc1 = nn.utils.skip_init(nn.Conv2d, channels, channels // reduction, kernel_size=1, **dd)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.utils.skip_init(nn.Conv2d, channels // reduction, channels, kernel_size=1, **dd)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as timm's ResNet.init_weights() does for every convolution; a neutral fc2 is zero."""
        parameters = dict(self.named_parameters())
        if parameters.keys() != set(SE_WEIGHTS) or any(p.is_meta for p in parameters.values()):
            return  # parametrized or with adapters, which are not ours to draw; or nothing to write to
        weights = self.initial_weights()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(like_parameter(weights[name], parameter))

    def initial_weights(self) -> dict[str, torch.Tensor]:
        """A new module's weights by name, in float32 on the CPU."""
        generator = torch.Generator().manual_seed(self.seed) if self.neutral else None
        weights = {k: torch.zeros(p.shape, device='cpu', dtype=torch.float32) for k, p in self.named_parameters()}
        for name in ('fc1',) if self.neutral else ('fc1', 'fc2'):
            weight = weights[f'{name}.weight']
            nn.init.kaiming_normal_(weight, mode='fan_out', nonlinearity='relu', generator=generator)
            bound = weight.shape[1] ** -0.5  # as nn.Conv2d.reset_parameters() has it
            nn.init.uniform_(weights[f'{name}.bias'], -bound, bound, generator=generator)
        return weights

    def init_non_persistent_buffers(self) -> None:
        """Be a new module again, unless weights were loaded: timm's name for what is to be done after `to_empty()`.

        transformers makes a model without memory, gives every layer that a file lacks random weights, and then calls
        this on each module. Of a plain ResNet's file it would otherwise make a network with random gates.
        """
        if not any(getattr(p, '_is_hf_initialized', False) for p in self.parameters()):
            self.reset_parameters()

    def _apply(self, fn, recurse=True):
        had_no_data = any(p.is_meta for p in self.parameters())
        super()._apply(fn, recurse)
        if had_no_data and type(self.fc1) is type(self.fc2) is nn.Conv2d and not self.fc1.weight.is_meta:
            self.reset_parameters()  # to_empty(): a plain ResNet's weights would leave it so
        return self

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """The gate, (N, C, 1, 1), of an input of (N, C, H, W)."""
        x = x.mean((2, 3), keepdim=True)
        x = self.fc2(self.act(self.fc1(x)))
        return (x * self.logit_scale).sigmoid() * self.gate_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


def like_parameter(value: torch.Tensor, parameter: Any) -> torch.Tensor:
    """A value in the dtype, on the device and, where that is sharded (FSDP2), in the shards of a parameter."""
    value = value.to(parameter.device, parameter.dtype)
    if hasattr(parameter, 'device_mesh'):  # a DTensor; its module takes half a second to import
        from torch.distributed.tensor import distribute_tensor
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value


def se_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of all SE modules in a model, for an optimizer's parameter group or to train nothing else."""
    return [p for m in model.modules() if isinstance(m, SEModule) for p in m.parameters()]
