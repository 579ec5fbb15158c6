"""The two models, as timm knows them."""
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm.layers import BlurPool2d, to_ntuple
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from .bottleneck import SEBlock
from .squeeze_excite import SEConfig
from .surgery import insert_se_, patch_block, replace_block, spare_fc2_
from .weights import map_resnet_weights, naming

__all__ = ['SEResNet']


# What timm's ResNet takes as a class, by the name that a config.json has
_NAMED: dict[Any, Any] = {'basic': BasicBlock, 'bottleneck': Bottleneck, 'avg': nn.AvgPool2d, 'blur': BlurPool2d}


class SEResNet(ResNet):
    """timm's ResNet with Squeeze-and-Excitation.

    Args:
        block: 'basic', 'bottleneck' or timm's class, or one for each stage; as `aa_layer`, 'avg' or 'blur'.
        convert: Makes a block an SE block: `replace_block` or `patch_block` of surgery.py.
        **kwargs: Arguments of timm's ResNet; the others are those of `se_resnet50_replace`.
    """

    def __init__(
            self,
            block: Any,
            *,
            convert: Callable[[nn.Module], SEBlock],
            aa_layer: Any = None,
            se_reduction: int | tuple[int, ...] = 16,
            se_stages: tuple[int, ...] = (1, 2, 3, 4),
            se_position: str = 'standard',
            memory_efficient: bool = False,
            **kwargs,
    ):
        config = SEConfig(se_reduction, se_stages, se_position)
        if memory_efficient not in (True, False):
            raise ValueError(f'memory_efficient={memory_efficient!r}: expected True or False.')
        blocks: Any = [_NAMED.get(b, b) for b in to_ntuple(4)(block)]
        super().__init__(blocks, aa_layer=_NAMED.get(aa_layer, aa_layer), **kwargs)
        insert_se_(self, config, convert)
        if memory_efficient:
            from .memory_efficient import set_memory_efficient
            set_memory_efficient(self)


def _pretrained_cfgs(name: str) -> dict[str, Any]:
    """Pretrained cfgs of timm's resnet50, and of its seresnet50 under tags that begin with `se_`, for a model."""
    return {
        f'{name}.{tag_prefix}{cfg.tag}': replace(cfg)
        for arch, tag_prefix in (('resnet50', ''), ('seresnet50', 'se_'))
        for cfg in get_arch_pretrained_cfgs(arch).values() if cfg.has_weights}


# register_model() looks its model up here
default_cfgs = generate_default_cfgs(_pretrained_cfgs('se_resnet50_replace') | _pretrained_cfgs('se_resnet50_patch'))


def _create_se_resnet50(variant: str, pretrained: bool, convert: Callable, **kwargs) -> SEResNet:
    build = partial(
        build_model_with_cfg, SEResNet, variant, pretrained_filter_fn=map_resnet_weights,
        **{'block': 'bottleneck', 'layers': (3, 4, 6, 3), 'convert': convert, **kwargs})
    given: Any = kwargs.get('pretrained_cfg')
    if pretrained and isinstance(given, Mapping) and given.get('source') in ('local-dir', 'hf-hub'):
        from .checkpoint.outline import check_described
        check_described(given, kwargs.get('pretrained_model_args') or {}, variant, kwargs.get('cache_dir'))
    try:
        return spare_fc2_(build(pretrained=pretrained))
    except Exception:
        if not pretrained:
            raise
        build(pretrained=False)  # where it is the arguments that are wrong, this says so
        cfg = resolve_pretrained_cfg(variant, given, kwargs.get('pretrained_cfg_overlay'))
        with naming(cfg.file or cfg.hf_hub_id or cfg.url):
            raise


@register_model
def se_resnet50_replace(pretrained: bool = False, **kwargs) -> SEResNet:
    """ResNet-50 with Squeeze-and-Excitation, each `Bottleneck` replaced by an `SEBottleneck`.

    Takes the weights of timm's resnet50 and computes what it computes. Beside all arguments of timm's resnet50:

    Args:
        pretrained: Load pretrained weights.
        se_reduction: Ratio r of channels to hidden width, one for all stages or one for each of `se_stages`.
        se_stages: Stages to put SE into, 1 to 4.
        se_position: 'standard', 'pre', 'post' or 'identity'.
        memory_efficient: Save less for the backward pass; off by default, since results differ by rounding.
    """
    return _create_se_resnet50('se_resnet50_replace', pretrained, convert=replace_block, **kwargs)


@register_model
def se_resnet50_patch(pretrained: bool = False, **kwargs) -> SEResNet:
    """ResNet-50 with Squeeze-and-Excitation, each `Bottleneck` patched in place.

    The same network as `se_resnet50_replace`, with the same arguments.
    """
    return _create_se_resnet50('se_resnet50_patch', pretrained, convert=patch_block, **kwargs)
