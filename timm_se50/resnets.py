"""The ResNets that a model is or holds: a detector's backbone, an encoder, a module of the user's."""
import re

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn
from torchvision.models import resnet as torchvision_resnet

__all__ = ['EXPECTED', 'find_resnets', 'is_block']

_BLOCKS = (Bottleneck, BasicBlock, torchvision_resnet.Bottleneck, torchvision_resnet.BasicBlock)
EXPECTED = 'a Bottleneck or BasicBlock of timm.models.resnet or torchvision.models.resnet'


def find_resnets(model: nn.Module) -> dict[str, nn.Module]:
    """Find each module that has blocks in layer1, layer2, ...; one whose layers are another's, too, is left out.

    Returns:
        The ResNets by their names in the model; a model that is one itself has the name ''.

    Raises:
        ValueError: There is none; the message says what was looked for and what there is.
    """
    layers = {name: own for name, own in ((n, _layers(m)) for n, m in model.named_modules()) if own}
    names = list(layers)
    aliases = {
        name for i, name in enumerate(names)
        if any(layers[name] < own for own in layers.values()) or layers[name] in map(layers.get, names[:i])}
    found = {name: model.get_submodule(name) for name in names if name not in aliases}
    if not found:
        raise ValueError(_describe_no_resnet(model))
    return found


def _layers(module: nn.Module) -> set[nn.Module]:
    """The layers of a module that hold blocks, with SE or without."""
    return {
        layer for name, layer in module.named_children()
        if re.fullmatch(r'layer\d', name) and any(map(is_block, layer.children()))}


def is_block(module: nn.Module) -> bool:
    """Whether a module is a ResNet's block, plain, with SE or in its inference form."""
    return isinstance(module, _BLOCKS) or getattr(module, 'inference_form', False)


def _describe_no_resnet(model: nn.Module) -> str:
    modules = [(name, m) for name, m in model.named_modules() if name]
    blocks = [(name, m) for name, m in modules if is_block(m)]
    others = [(name, m) for name, m in modules if re.search('(?i)bottle|basic(block|layer)?$', type(m).__name__)]
    found = [
        f'{name} (a {type(m).__module__}.{type(m).__qualname__})'
        for name, m in (blocks or others)[:1] or list(model.named_children())[:5]]
    way_out = ''
    if any(isinstance(m, torch.fx.GraphModule) for m in model.modules()):
        way_out = ' torch.fx has taken it apart: put SE in before create_feature_extractor().'
    elif blocks:
        way_out = " Its blocks do not stand in the ResNet's layers: put SE in before the ResNet is taken apart."
    elif others:
        way_out = (
            ' No other class will do, since its forward may be another. Where its library takes networks of timm by '
            "name, give it 'se_resnet50_replace' with features_only=True (docs/ecosystem.md).")
    return (
        f'The {type(model).__name__} holds no ResNet that SE can go into: looked for layer1 to layer4, each block in '
        f'them {EXPECTED}; found {", ".join(found) or "no modules"}.{way_out}')
