"""What a config.json may say: it comes from others, and decides what is built and which weights are let go."""
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg

from ..squeeze_excite import SEConfig

__all__ = [
    'ARCHITECTURES', 'OURS', 'PORTABLE', 'check_config', 'check_saved', 'is_of_other_size', 'parse_config',
    'read_config',
]

OURS = ('se_resnet50_replace', 'se_resnet50_patch')
PORTABLE = 'seresnet50'  # timm's own, the same network as ours with the default settings, up to factors of two
ARCHITECTURES = (*OURS, PORTABLE)
_MAX_BYTES = 1 << 24  # of a config.json; with 21,841 label names it has 1 MB
_USUAL_CLASSES = 100_000
# Each with what is expected of it. A size is bounded so that the model's outline, at least, can be made of it.
_Check = tuple[Callable[[Any], bool], str]


def _whole(low: int, high: int) -> _Check:
    return (lambda v: type(v) is int and low <= v <= high), f'a whole number from {low} to {high}'


def _number(low: float, high: float = math.inf) -> _Check:
    return (lambda v: type(v) in (int, float) and low <= v <= high,
            f'a number of at least {low}')


def _several(each: _Check, count: int | None = None) -> _Check:
    return (lambda v: isinstance(v, (list, tuple)) and len(v) in ((count,) if count else range(1, 17))
            and all(map(each[0], v)), f'a list of {count or "some"}, each {each[1]}')


_NAME: _Check = (lambda v: isinstance(v, str), 'a name')
_FLAG: _Check = (lambda v: isinstance(v, bool), 'true or false')
_ONE_OF_NONE: _Check = (lambda v: not v, 'false, or that it is left out')
_PIXELS = _several(_whole(1, 1 << 16), 3)
_ANY: _Check = (lambda v: True, 'anything')
_CLASSES = _whole(0, 1 << 31)

# All arguments that describe the network. What says where it is made or what is loaded (device, dtype, features_only,
# checkpoint_path, pretrained_cfg, ...) is the caller's to say.
_MODEL_ARGS: dict[str, _Check] = {
    'num_classes': _CLASSES, 'in_chans': _whole(1, 4096), 'layers': _several(_whole(1, 64), 4),
    'channels': _several(_whole(1, 1 << 14), 4), 'output_stride': (lambda v: v in (8, 16, 32), '8, 16 or 32'),
    'cardinality': _whole(1, 1024), 'base_width': _whole(1, 1024), 'stem_width': _whole(1, 1024),
    'block_reduce_first': _whole(1, 64), 'down_kernel_size': _whole(1, 9), 'global_pool': _NAME, 'stem_type': _NAME,
    'act_layer': _NAME, 'norm_layer': _NAME, 'aa_layer': _NAME, 'replace_stem_pool': _FLAG, 'avg_down': _FLAG,
    'zero_init_last': _FLAG, 'memory_efficient': _FLAG, 'drop_rate': _number(0, 1), 'drop_path_rate': _number(0, 1),
    'drop_block_rate': _number(0, 1), 'block_args': (lambda v: isinstance(v, dict), 'a mapping'),
    'se_reduction': _ANY, 'se_stages': _ANY, 'se_position': _ANY,  # SEConfig looks at these
}
_SIZES = ('layers', 'channels', 'cardinality', 'base_width', 'stem_width', 'block_reduce_first', 'down_kernel_size',
          'block_args')
_CFG: dict[str, _Check] = {
    **dict.fromkeys((f.name for f in fields(PretrainedCfg)), _ANY),
    'num_classes': _CLASSES, 'input_size': _PIXELS, 'test_input_size': _PIXELS, 'min_input_size': _PIXELS,
    'mean': _several(_number(-math.inf)), 'std': _several(_number(0)), 'crop_pct': _number(0),
    'test_crop_pct': _number(0), 'interpolation': _NAME, 'crop_mode': _NAME, 'pool_size': _several(_whole(1, 1 << 16)),
    'tag': _NAME, 'license': _NAME, 'description': _NAME, 'origin_url': _NAME,
    'paper_name': _NAME, 'architecture': _NAME,
    'label_names': (lambda v: isinstance(v, (list, tuple, dict)), 'a list of names'),
    # these say which weights timm lets go
    'classifier': (lambda v: v == 'fc', "'fc'"),
    'first_conv': (lambda v: v in ('conv1', 'conv1.0'), "'conv1'"),
    'label_offset': _ONE_OF_NONE, 'custom_load': _ONE_OF_NONE, 'fixed_input_size': _ONE_OF_NONE,
    'hf_hub_filename': _ONE_OF_NONE,
}
# Where timm takes weights from: it fills these in itself, so that they are looked at in the file
_SOURCES = ('url', 'file', 'state_dict', 'hf_hub_id', 'hf_hub_filename', 'source')


def read_config(path: Path) -> dict[str, Any]:
    """Read the config.json of one of our models, or of timm's `seresnet50`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON of that form, or holds what it may not; the message names file and key.
    """
    config = parse_config(path)
    if config['architecture'] not in ARCHITECTURES:
        raise ValueError(
            f"{path} is of a {_short(config['architecture'])}; expected one of {', '.join(ARCHITECTURES)}. "
            'For other models use timm.create_model().')
    config.setdefault('model_args', {})
    cfg = config.setdefault('pretrained_cfg', {})
    for key in _SOURCES:
        if cfg.get(key) is not None:
            raise ValueError(f'{path}: {key!r} in its pretrained_cfg says where weights come from; they are those '
                             'beside it. Take it out.')
    config['pretrained_cfg'] = check_config(config, path)
    return config


def check_config(config: Mapping[str, Any], place: object) -> dict[str, Any]:
    """The pretrained_cfg of a config.json as timm reads it, with what stands at the root, after `check_saved`."""
    cfg = config['pretrained_cfg'] | {key: config[key] for key in ('num_classes', 'label_names') if key in config}
    check_saved(cfg, config['model_args'], place)
    return cfg


def parse_config(path: Path) -> dict[str, Any]:
    """Read a config.json of timm's form, of any model; raises as `read_config`."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{path} has {path.stat().st_size:,} bytes; expected a config.json, which has a few thousand.')
    try:
        config = json.loads(path.read_bytes().decode('utf-8'))
    except (ValueError, RecursionError) as e:
        raise ValueError(f'{path} is no JSON: {e}. Get it anew, or save the model again.') from e
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise ValueError(f"{path} names no 'architecture'; expected the config.json of save_checkpoint().")
    for key in ('pretrained_cfg', 'model_args'):
        if not isinstance(config.get(key, {}), dict):
            raise ValueError(f'{path}: {key!r} is {_short(config[key])}; expected a mapping.')
    return config


def check_saved(cfg: Mapping[str, Any], args: Mapping[str, Any], place: object) -> None:
    """Raise a ValueError unless all is of the right kind and says nothing of what the caller decides.

    Args:
        cfg: Of timm's PretrainedCfg, as timm reads it.
        args: Arguments that the model was saved with.
        place: Where they were read, for a message.
    """
    for name, values, checks in (('model_args', args, _MODEL_ARGS), ('pretrained_cfg', cfg, _CFG)):
        for key, value in values.items():
            if key not in checks:
                raise ValueError(f'{place}: {key!r} in {name} is none that a saved model has; take it out, and pass it '
                                 'to timm.create_model() if you mean it.')
            right, expected = checks[key]
            if value is not None and not right(value):
                raise ValueError(f'{place}: {key!r} in {name} is {_short(value)}; expected {expected}.')
    classes = args.get('num_classes')
    if classes is not None and classes != cfg.get('num_classes'):
        raise ValueError(f"{place}: 'num_classes' is {cfg.get('num_classes')}, and {classes} in model_args; expected "
                         'the one number that fc.weight has rows.')
    if 'num_classes' in cfg and cfg['num_classes'] is None:
        raise ValueError(f"{place}: 'num_classes' is null; expected as many as fc.weight has rows.")
    try:
        SEConfig(**{key.removeprefix('se_'): value for key, value in args.items()
                    if key in ('se_reduction', 'se_stages', 'se_position') and value is not None})
    except (ValueError, TypeError) as e:
        raise ValueError(f'{place}: {e}') from e


def is_of_other_size(cfg: Mapping[str, Any], args: Mapping[str, Any]) -> bool:
    """Whether a config may describe a model far larger than a ResNet-50."""
    return any(args.get(key) is not None for key in _SIZES) or (cfg.get('num_classes') or 0) > _USUAL_CLASSES


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
