"""What the study compares: ways to go on from one trained ResNet-50. Each is a function of its state dict."""
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

import timm_se50

__all__ = ['ARMS', 'SE_LR_SCALE', 'has_composer', 'make_arm']

Weights = dict[str, Tensor]


def _loaded(name: str, source: Weights) -> nn.Module:
    model = timm.create_model(name, num_classes=10)
    model.load_state_dict(source)
    return model


def plain(source: Weights) -> nn.Module:
    """ResNet-50 as it is."""
    return _loaded('resnet50', source)


def se_replace(source: Weights) -> nn.Module:
    """SE by this plugin."""
    return _loaded('se_resnet50_replace', source)


def se_patch(source: Weights) -> nn.Module:
    """SE by this plugin, the other route (once, to see that both give the same)."""
    return _loaded('se_resnet50_patch', source)


def se_random(source: Weights) -> nn.Module:
    """Random gates, BatchNorm carried."""
    # the usual recipe: an SE-ResNet-50 (timm's own, with its own init) and strict=False
    model = timm.create_model('seresnet50', num_classes=10)
    missing, unexpected = model.load_state_dict(source, strict=False)
    assert not unexpected
    assert all('.se.' in key for key in missing)
    return model


def se_fresh_bn(source: Weights) -> nn.Module:
    """Random gates, BatchNorm statistics not carried."""
    model = se_random(source)
    for name, module in model.named_modules():
        if name.startswith('layer') and name.rpartition('.')[2] in ('bn1', 'bn2', 'bn3'):
            module.reset_running_stats()
    return model


def se_composer(source: Weights) -> nn.Module:
    """SE after convolutions (composer)."""
    from composer.algorithms.squeeze_excite import apply_squeeze_excite
    model = plain(source)
    apply_squeeze_excite(model)
    return model


def se_only(source: Weights) -> nn.Module:
    """SE by this plugin, only SE and the head train."""
    model = se_replace(source).requires_grad_(False)
    for parameter in timm_se50.se_parameters(model):
        parameter.requires_grad_(True)
    return model


def se_fast(source: Weights) -> nn.Module:
    """SE by this plugin, SE modules at 10 times the learning rate."""
    return se_replace(source)


# Of an arm's SE modules; 1 for all others
SE_LR_SCALE = {'se_fast': 10.0}
ARMS: dict[str, Callable[[Weights], nn.Module]] = {
    f.__name__: f for f in (plain, se_replace, se_fast, se_only, se_random, se_fresh_bn, se_composer, se_patch)}


def has_composer() -> bool:
    """Whether composer (package mosaicml) can be imported here."""
    try:
        import composer.algorithms.squeeze_excite  # noqa: F401
    except ImportError:
        return False
    return True


def make_arm(arm: str, source: Weights, seed: int, new_head: bool) -> nn.Module:
    """An arm's model at step 0; what is random in it depends on the seed only, a new head is the same for all arms."""
    torch.manual_seed(seed)
    model = ARMS[arm](source)
    if new_head:
        torch.manual_seed(seed)
        model.reset_classifier(10)
    for parameter in model.get_classifier().parameters():
        parameter.requires_grad_(True)
    return model.to(memory_format=torch.channels_last)
