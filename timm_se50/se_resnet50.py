"""The two models, as timm knows them."""
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
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
from .deferred_init import DeferredInit
from .older_timm import keep_args, keep_first_conv
from .reading import Reading, unreadable
from .squeeze_excite import SEConfig, SEModule
from .surgery import insert_se_, patch_block, replace_block
from .torch_internals import has_load_hooks
from .weights import check_data, check_weights, map_blocks_, map_resnet_weights, map_weights

__all__ = ['SEResNet']


class SEResNet(ResNet):
    """timm's ResNet with Squeeze-and-Excitation.

    Args:
        convert: Makes a block an SE block: `replace_block` or `patch_block` of surgery.py.
        se_reduction: As `SEConfig.reduction`.
        se_stages: As `SEConfig.stages`.
        se_position: As `SEConfig.position`.
        memory_efficient: Save less for the backward pass (see `set_memory_efficient`).
        init_context: What the plain ResNet's weights are initialized in.
        **kwargs: Arguments of timm's ResNet.
    """

    def __init__(
            self,
            *args,
            convert: Callable[[nn.Module], SEBlock],
            se_reduction: int | tuple[int, ...] = 16,
            se_stages: tuple[int, ...] = (1, 2, 3, 4),
            se_position: str = 'standard',
            memory_efficient: bool = False,
            init_context: AbstractContextManager = nullcontext(),
            **kwargs,
    ):
        config = SEConfig(se_reduction, se_stages, se_position)
        if memory_efficient not in (True, False):
            raise ValueError(f'memory_efficient={memory_efficient!r}: expected True or False.')
        with init_context:
            super().__init__(*args, **kwargs)
        insert_se_(self, config, convert)
        if memory_efficient:
            from .memory_efficient import set_memory_efficient
            set_memory_efficient(self)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """As timm's, and neutral SE modules stay so."""
        super().init_weights(zero_init_last)
        for module in self.modules():
            if isinstance(module, SEModule):
                module.reset_parameters()

    def load_state_dict(self, state_dict, strict: bool = True, assign: bool = False):
        """As torch's, and what is refused leaves the model unchanged: all is checked first.

        A strict call takes all that `map_resnet_weights` takes. One that is not strict loads what fits by name; each
        block that gets a plain block's weights, or timm's with SE, loads them as a strict call would.
        """
        if isinstance(state_dict, Mapping):  # torch says it of what is none
            try:
                if strict:
                    state_dict = map_weights(state_dict, self, assign=assign)
                else:
                    target = self.state_dict()
                    mapped = dict(state_dict)
                    map_blocks_(mapped, self, assign)
                    check_data(mapped, target, assign)
                    fitting = {k: v for k, v in mapped.items() if k in target}
                    check_weights({**target, **fitting}, target, file=state_dict)
            except RuntimeError:
                if not any(map(has_load_hooks, self.modules())):  # which may yet rename the keys
                    raise
        return super().load_state_dict(state_dict, strict, assign)


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
    model_args = dict(block=Bottleneck, layers=(3, 4, 6, 3), convert=convert)
    deferred = DeferredInit()
    restore = None
    if pretrained:
        model_args['init_context'] = deferred
        restore = keep_first_conv(variant, kwargs)
    given, saved = kwargs.get('pretrained_cfg'), None
    if isinstance(given, Mapping) and given.get('source') in ('local-dir', 'hf-hub'):
        from .checkpoint.rebuild import Saved
        saved = Saved(given, kwargs.get('pretrained_model_args') or {})
    reading = Reading(SEResNet, saved.map_weights if saved else map_resnet_weights)
    try:
        model = build_model_with_cfg(
            reading.build, variant, pretrained, pretrained_filter_fn=reading.filter, **dict(model_args, **kwargs))
    except Exception as e:
        if saved and not reading.built and not isinstance(e, MemoryError):
            raise saved.unbuildable(e, kwargs) from e
        if not reading.built:
            raise
        cfg = resolve_pretrained_cfg(variant, given, kwargs.get('pretrained_cfg_overlay'))
        place = cfg.file or cfg.hf_hub_id or cfg.url
        if reading.now and (cfg.file or isinstance(e, SafetensorError)):  # others are of the network, and named
            raise unreadable(place, e) from e
        if not reading.now and isinstance(e, RuntimeError):
            raise RuntimeError(f'{place}: {e}') from e
        raise
    deferred.settle()
    if restore is not None:
        restore(model)
    keep_args(model, kwargs)
    return model


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
