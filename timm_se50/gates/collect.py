"""What the gates of SE modules do with a set of images (section 7.2 of the paper, on excitation)."""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn

from ..squeeze_excite import SEModule

__all__ = ['SE_MODULES', 'BlockGates', 'collect_gates', 'evaluating', 'gate_warnings', 'recording_gates']

# Ours and timm's
SE_MODULES = (SEModule, SqueezeExcite)

# Both are fractions of the gate's range. A gate's slope at 0.02 is 8% of its steepest.
STUCK, SATURATED = 1e-3, 0.02
CURE = (
    'What frees it: a higher learning rate for SE, param_groups(model, lr, weight_decay, se_lr=10 * lr); more steps; '
    'no adaptive gradient clipping, weight norm or pruning of fc2 (docs/train.md).')


@dataclass(frozen=True)
class BlockGates:
    """The gates of one SE module.

    Args:
        name: Of the module, for example 'layer1.0.se_standard'.
        scale: Upper end of the gate's range: 1 for the paper's gate, 2 for a neutral one.
        classes: Names of the classes, K of them.
        count: Number of images, (K,).
        mean: Mean gate by class and channel, (K, C).
        std: Spread between a class's images, a standard deviation, (K, C).
    """
    name: str
    scale: float
    classes: tuple[str, ...]
    count: Tensor
    mean: Tensor
    std: Tensor

    @property
    def overall_mean(self) -> Tensor:
        """Mean over all images, (C,)."""
        return self._weight @ self.mean

    @property
    def overall_std(self) -> Tensor:
        """Spread between all images, (C,)."""
        return (self._weight @ (self.std ** 2 + (self.mean - self.overall_mean) ** 2)).sqrt()

    @property
    def _weight(self) -> Tensor:
        return self.count / self.count.sum()

    def summary(self) -> dict[str, float | int | str]:
        """One row of a table: means over channels, and what spread there is within classes and between them."""
        return {
            'block': self.name,
            'channels': self.mean.shape[1],
            'mean': self.overall_mean.mean().item(),
            'min': self.overall_mean.min().item(),
            'max': self.overall_mean.max().item(),
            'within_classes': (self._weight @ self.std ** 2).sqrt().mean().item(),
            'between_classes': (self._weight @ (self.mean - self.overall_mean) ** 2).sqrt().mean().item(),
        }


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode it was in."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def recording_gates(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record gates by forward hooks, which are gone afterwards.

    Args:
        model: Any model that holds SE modules, ours or timm's.

    Yields:
        The gates of the latest forward, (N, C), by module name.
    """
    gates: dict[str, Tensor] = {}
    handles = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, SEModule):
                handles.append(module.register_forward_pre_hook(
                    lambda se, args, name=name: gates.update({name: se.gate(args[0]).flatten(1)})))
            elif isinstance(module, SqueezeExcite):
                handles.append(module.gate.register_forward_hook(
                    lambda _, args, gate, name=name: gates.update({name: gate.flatten(1)})))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def collect_gates(
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        classes: Sequence[str],
) -> list[BlockGates]:
    """Mean gates and their spread, for each SE module and class. The model is left as it was.

    Args:
        model: Any model that holds SE modules, ours or timm's.
        batches: A model's input, (N, C, H, W), and the index of each image's class, (N,), 0 to K - 1.
        classes: Names of the classes, K of them.

    Returns:
        The gates of each module, in the model's order; classes without images are left out.

    Raises:
        ValueError: The model holds no SE modules, there are no images, or gates are NaN.
    """
    modules = {n: m for n, m in model.named_modules() if isinstance(m, SE_MODULES)}
    if not modules:
        raise ValueError(
            f'The {type(model).__name__} holds no SE modules; expected a model with some, for example '
            "timm.create_model('se_resnet50_replace').")
    weight = next(iter(modules.values())).fc1.weight
    count = torch.zeros(len(classes), dtype=torch.float64)
    sums: dict[str, Tensor] = {}  # of gates and of their squares, (2, K, C)
    with evaluating(model), recording_gates(model) as gates:
        for images, index in batches:
            model(images.to(weight.device, weight.dtype))
            member = nn.functional.one_hot(index.cpu(), len(classes)).double().T
            count += member.sum(1)
            for name, gate in gates.items():
                gate = gate.cpu().double()
                total = torch.stack([member @ gate, member @ gate ** 2])
                sums[name] = sums[name] + total if name in sums else total
    if not sums:
        raise ValueError('There are no images to look at; expected at least one.')

    seen = count > 0
    names = tuple(c for c, there in zip(classes, seen.tolist(), strict=True) if there)
    result = []
    for name, module in modules.items():
        if name in sums:  # a module that the forward does not use has none
            mean, square = sums[name][:, seen] / count[seen][:, None]
            if not mean.isfinite().all():
                raise ValueError(
                    f'{name}: its gates are NaN, so an image or the weights up to there are, too. Has the training '
                    'diverged?')
            std = (square - mean ** 2).clamp(min=0).sqrt()
            result.append(BlockGates(name, getattr(module, 'gate_scale', 1.0), names, count[seen], mean, std))
    return result


def gate_warnings(blocks: Sequence[BlockGates]) -> list[str]:
    """A line that names the SE modules whose gates are saturated, and one for those that are stuck.

    What is one image's alone is not judged stuck.
    """
    saturated, stuck = [], []
    for block in blocks:
        mean = block.overall_mean / block.scale
        if ((mean < SATURATED) | (mean > 1 - SATURATED)).double().mean() > 0.5:
            saturated.append(block.name)
        elif block.count.sum() > 1 and block.overall_std.max() < STUCK * block.scale:
            stuck.append(block.name)
    lines = []
    if saturated:
        lines.append(f'saturated: {", ".join(saturated)}. Most channels have a mean gate within {SATURATED:.0%} of an '
                     'end of its range, where it hardly learns.')
    if stuck:
        lines.append(f'stuck: {", ".join(stuck)}. No channel varies between the images, as before training. {CURE}')
    return lines
