"""The two models, as timm knows them."""
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from .bottleneck import SEBlock
from .squeeze_excite import SEConfig
from .surgery import insert_se_, patch_block, replace_block, spare_fc2_
from .weights import map_resnet_weights, naming

__all__ = ['SEResNet']


class SEResNet(ResNet):
    """timm's ResNet with Squeeze-and-Excitation.

    Args:
        convert: Makes a block an SE block: `replace_block` or `patch_block` of surgery.py.
        **kwargs: Arguments of timm's ResNet; the others are those of `se_resnet50_replace`.
    """

    def __init__(
            self,
            *args,
            convert: Callable[[nn.Module], SEBlock],
            se_reduction: int | tuple[int, ...] = 16,
            se_stages: tuple[int, ...] = (1, 2, 3, 4),
            se_position: str = 'standard',
            memory_efficient: bool = False,
            **kwargs,
    ):
        config = SEConfig(se_reduction, se_stages, se_position)
        if memory_efficient not in (True, False):
            raise ValueError(f'memory_efficient={memory_efficient!r}: expected True or False.')
        super().__init__(*args, **kwargs)
        insert_se_(self, config, convert)
        if memory_efficient:
            from .memory_efficient import set_memory_efficient
            set_memory_efficient(self)


def _pretrained_cfgs(name: str) -> dict[str, Any]:
    """Pretrained cfgs of timm's resnet50, and of its seresnet50 under tags that begin with `se_`, for a model."""
    cfgs = {}
    for arch, tag_prefix in (('resnet50', ''), ('seresnet50', 'se_')):
        for cfg in get_arch_pretrained_cfgs(arch).values():
            if cfg.has_weights:
                cfgs[f'{name}.{tag_prefix}{cfg.tag}'] = replace(cfg)
    return cfgs


# register_model() looks its model up here
default_cfgs = generate_default_cfgs(_pretrained_cfgs('se_resnet50_replace') | _pretrained_cfgs('se_resnet50_patch'))


def _create_se_resnet50(variant: str, pretrained: bool, convert: Callable, **kwargs) -> SEResNet:
    model_args = dict(dict(block=Bottleneck, layers=(3, 4, 6, 3), convert=convert), **kwargs)
    build = partial(
        build_model_with_cfg, SEResNet, variant, pretrained_filter_fn=map_resnet_weights, **model_args)
    given = kwargs.get('pretrained_cfg')
    if pretrained and isinstance(given, Mapping) and given.get('source') in ('local-dir', 'hf-hub'):
        from .checkpoint.rebuild import check_described
        check_described(given, kwargs.get('pretrained_model_args') or {})
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
