"""What timm before 1.0.31 lacks of what is used of it, or gets wrong.

It keeps no arguments of a model, its config.json says nothing of channels and preprocessing that are no longer those of
the pretrained cfg, and it takes every checkpoint for one of 3 channels.
"""
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from timm.data import resolve_data_config
from timm.models import filter_pretrained_cfg, resolve_pretrained_cfg
from timm.models._hub import save_config_for_hf  # timm.models has only save_for_hf, which writes weights too
from torch import nn

try:
    from timm.models import get_model_args as _timms_args
except ImportError:
    _timms_args = None  # type: ignore[assignment]

__all__ = ['NOT_OF_MODEL', 'get_model_args', 'keep_args', 'keep_first_conv', 'write_config']

# Arguments of `create_model()` that say where weights come from and go to
NOT_OF_MODEL = ('pretrained_cfg', 'pretrained_cfg_overlay', 'pretrained_model_args', 'cache_dir', 'device', 'dtype')


def keep_args(model: Any, kwargs: Mapping[str, Any]) -> None:
    """Note the arguments that a model was made with, where timm's `create_model()` notes them."""
    model._model_args = {k: v for k, v in kwargs.items() if k not in NOT_OF_MODEL}


def keep_first_conv(variant: str, kwargs: dict[str, Any]) -> Callable[[Any], None]:
    """Have timm leave a first convolution as it is whose channels are those of the weights, by a change of `kwargs`.

    It would make one of 4 channels random. What is returned takes the change back in the model's pretrained cfg.
    """
    cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
    if _timms_args is not None or cfg.input_size[0] != kwargs.get('in_chans', 3):
        return lambda model: None
    kwargs['pretrained_cfg_overlay'] = {**(kwargs.get('pretrained_cfg_overlay') or {}), 'first_conv': None}
    return lambda model: model.pretrained_cfg.update(first_conv=cfg.first_conv)


def get_model_args(model: nn.Module, overrides: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a ResNet was made with, as far as they are kept, and those that it shows itself."""
    if _timms_args is not None:
        return _timms_args(model, overrides)
    kept = {k: v for k, v in getattr(model, '_model_args', {}).items() if not k.endswith('_rate')}
    return {**kept, **overrides, **_shown(model)}


def write_config(
        model: nn.Module,
        path: Path,
        label_names: Any,
        model_args: dict[str, Any],
        data_config: Mapping[str, Any],
) -> None:
    """Write the config.json of a ResNet, as timm 1.0.31 does."""
    config: dict[str, Any] = {'label_names': label_names}
    if _timms_args is not None:
        save_config_for_hf(model, str(path), config, model_args, dict(data_config))
    else:
        config['global_pool'] = model_args['global_pool']
        config['pretrained_cfg'] = _pretrained_cfg(model, dict(data_config))
        # this timm pops the architecture from a cfg of its own, and takes ours after that
        config['pretrained_cfg'].pop('architecture', None)
        save_config_for_hf(model, path, config, model_args)


def _pretrained_cfg(model: Any, data_config: dict[str, Any]) -> dict[str, Any]:
    """The pretrained cfg with what holds for the model as it is."""
    cfg = filter_pretrained_cfg(
        {k: v for k, v in model.pretrained_cfg.items() if k != 'state_dict'}, remove_source=True, remove_null=True)
    channels = _shown(model)['in_chans']
    size = data_config.get('img_size') or tuple(data_config.get('input_size') or cfg['input_size'])[1:]
    asked = data_config.get('in_chans') or (data_config.get('input_size') or (channels,))[0]
    if asked != channels:
        raise ValueError(f'Requested {asked} input channels, but the model accepts {channels}.')
    data_config['input_size'] = (channels, *((size, size) if isinstance(size, int) else size))
    for key in ('mean', 'std'):
        values = data_config.get(key) or cfg[key]
        values = (values,) if isinstance(values, (int, float)) else tuple(values)
        if len(values) not in (1, channels):
            if data_config.get(key):
                raise ValueError(f'{key} must have one value or {channels} values, got {len(values)}.')
            values = (sum(values) / len(values),)
        data_config[key] = values
    if data_config['input_size'][1:] != tuple(cfg['input_size'][1:]):
        cfg.pop('pool_size', None)
    resized = 'img_size' in data_config or data_config['input_size'] != tuple(cfg['input_size'])
    for key, stale in (('test_input_size', resized), ('test_crop_pct', 'crop_pct' in data_config)):
        if data_config.get(key) is not None:
            cfg[key] = data_config[key]
        elif stale:
            cfg.pop(key, None)
    cfg.update(resolve_data_config(data_config, pretrained_cfg=cfg), num_classes=model.num_classes)
    if model.num_classes != model.pretrained_cfg.get('num_classes'):
        for key in ('label_names', 'label_descriptions'):
            cfg.pop(key, None)
    for key in ('label_offset', 'custom_load'):
        cfg.pop(key, None)
    return cfg


def _shown(model: Any) -> dict[str, Any]:
    """The arguments that can be read off a ResNet."""
    stem = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    pool = model.global_pool
    return dict(
        in_chans=stem.in_channels, num_classes=model.num_classes, global_pool=getattr(pool, 'pool_type', ''))
