"""What the study compares: ways to go on from one trained ResNet."""
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

import timm_se50

__all__ = ['ARMS', 'Arm', 'Source', 'has_composer', 'make_arm']


@dataclass(frozen=True)
class Source:
    """A trained plain ResNet: its state dict, and its arguments of `timm.create_model('resnet50', ...)`."""
    weights: Mapping[str, Tensor]
    network: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to go on.

    Args:
        title: In words; `{longer}` stands for the factor of `longer`.
        build: Makes the model of a `Source`.
        longer: Train for as many more steps as SE's time would buy.
        se_lr: Times the learning rate for SE's parameters.
        frozen: Train SE and the head only.
        main: Run with every optimizer and before the others.
    """
    title: str
    build: Callable[[Source], nn.Module]
    longer: bool = False
    se_lr: float = 1.0
    frozen: bool = False
    main: bool = False

    @property
    def ours(self) -> bool:
        """Whether this package's SE is in it."""
        return ours in (self.build, getattr(self.build, 'func', None))


def plain(source: Source) -> nn.Module:
    model = timm.create_model('resnet50', **source.network)
    model.load_state_dict(source.weights)
    return model


def ours(source: Source, **se) -> nn.Module:
    return timm_se50.replace_blocks_(plain(source), timm_se50.SEConfig(**se))


def random_gates(source: Source) -> nn.Module:
    """The usual recipe: an SE-ResNet (timm's own, with its own init) and strict=False."""
    model = timm.create_model('seresnet50', **source.network)
    missing, unexpected = model.load_state_dict(source.weights, strict=False)
    assert not unexpected
    assert all('.se.' in key for key in missing)
    return model


def composer(source: Source) -> nn.Module:
    from composer.algorithms.squeeze_excite import apply_squeeze_excite
    model = plain(source)
    apply_squeeze_excite(model, min_channels=min(128, model.num_features // 16))
    return model


ARMS: dict[str, Arm] = {
    'plain': Arm('plain', plain, main=True),
    'plain_longer': Arm('plain, {longer} times the steps', plain, longer=True, main=True),
    'se': Arm('SE as it comes', ours, main=True),
    'se_fast': Arm('SE, its learning rate 10 times', ours, se_lr=10.0, main=True),
    'random': Arm('random gates (timm), BatchNorm carried', random_gates),
    'stages_123': Arm('SE in stages 1 to 3', partial(ours, stages=(1, 2, 3))),
    'stages_34': Arm('SE in stages 3 and 4', partial(ours, stages=(3, 4))),
    'reduction_4': Arm('SE, reduction 4', partial(ours, reduction=4)),
    'pre': Arm("SE, position 'pre'", partial(ours, position='pre')),
    'post': Arm("SE, position 'post'", partial(ours, position='post')),
    'identity': Arm("SE, position 'identity'", partial(ours, position='identity')),
    'composer': Arm('SE after convolutions (composer)', composer),
    'se_only': Arm('SE and the head only', ours, frozen=True),
}


def has_composer() -> bool:
    """Whether composer (package mosaicml) can be imported here."""
    try:
        import composer.algorithms.squeeze_excite  # noqa: F401
    except ImportError:
        return False
    return True


def make_arm(name: str, source: Source, seed: int, classes: int | None) -> nn.Module:
    """An arm's model at step 0; what is random in it depends on the seed only. A new head is the same for all arms."""
    arm = ARMS[name]
    torch.manual_seed(seed)
    model = arm.build(source)
    if classes is not None:
        torch.manual_seed(seed)
        model.reset_classifier(classes)
    if arm.frozen:
        model.requires_grad_(False)
        for parameter in (*timm_se50.se_parameters(model), *model.get_classifier().parameters()):
            parameter.requires_grad_(True)
    return model.to(memory_format=torch.channels_last)
