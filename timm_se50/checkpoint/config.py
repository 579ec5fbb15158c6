"""The config.json of a model: all that `timm.create_model()` needs to build it again, read off the model itself."""
import inspect
import json
import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import DropBlock2d, DropPath, SqueezeExcite
from timm.models import get_model_args
from timm.models._hub import save_config_for_hf  # timm.models has only save_for_hf, which writes weights too
from timm.models.resnet import ResNet
from torch import nn

from ..block_weights import BATCH_NORMS
from ..bottleneck import SEBlock
from ..se_resnet50 import SEResNet
from ..squeeze_excite import POSITIONS, SEConfig, SEModule
from .saved import OURS, PORTABLE, check_config, check_saved

__all__ = ['checkpoint_config', 'se_config']

_PREPROCESSING = ('input_size', 'img_size', 'in_chans', 'mean', 'std', 'crop_pct', 'crop_mode', 'interpolation',
                  'test_input_size', 'test_crop_pct')
_NETWORK = inspect.signature(ResNet).parameters.keys()  # the arguments that describe it, beside those of SE


def se_config(model: nn.Module) -> SEConfig:
    """The SE settings of a model, derived from its blocks.

    Raises:
        ValueError: The model is not a ResNet with SE blocks, or its stages have SE at different positions.
    """
    if type(model) not in (ResNet, SEResNet):
        raise ValueError(
            f'The model is a {type(model).__module__}.{type(model).__qualname__}; expected a timm ResNet-50 with SE, '
            "for example timm.create_model('se_resnet50_replace'), which timm can build again by name. Of any other "
            'model with SE save the state dict and the SEConfig (docs/any_model.md).')
    reductions: dict[int, int] = {}
    positions = set()
    for stage in (1, 2, 3, 4):
        for block in cast(nn.Module, getattr(model, f'layer{stage}')).children():
            if isinstance(block, SEBlock):
                se = cast(SEModule, getattr(block, POSITIONS[block.se_position]))
                reductions.setdefault(stage, se.fc1.in_channels // se.fc1.out_channels)
                positions.add(block.se_position)
    if any(getattr(m, 'inference_form', False) for m in model.modules()):
        raise ValueError('This is the inference form of a model; save the model that it was made from.')
    if any(isinstance(m, SqueezeExcite) for m in model.modules()):
        raise ValueError(
            f"The model is timm's own {PORTABLE}, as save_checkpoint(portable=True) writes it; load its state dict "
            f'into {OURS[0]}, or push it with timm.models.push_to_hf_hub().')
    if not reductions:
        raise ValueError(
            'The model has no SE blocks; put them in with timm_se50.replace_blocks_(model), or save a plain timm '
            'model with timm.models.push_to_hf_hub().')
    if len(positions) > 1:
        raise ValueError(f'The model has SE at more than one position, {sorted(positions)}; expected one for all.')
    each = tuple(reductions.values())
    return SEConfig(each[0] if len(set(each)) == 1 else each, tuple(reductions), positions.pop())


def checkpoint_config(
        model: nn.Module,
        portable: bool = False,
        label_names: Sequence[str] | None = None,
        data_config: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str, SEConfig]:
    """The config.json of a model, after a check that the model it describes is `model`.

    Args:
        model: A ResNet-50 with SE, not wrapped.
        portable: Describe the model as timm's `seresnet50`.
        label_names: Name of each class; by default those that the model was loaded with.
        data_config: Preprocessing that differs from `model.pretrained_cfg`, as for timm's `resolve_data_config()`.

    Returns:
        The config, the name of the architecture in this package, and the SE settings.

    Raises:
        ValueError: The config cannot describe the model; the message says why.
    """
    se = se_config(model)
    if not hasattr(model, 'pretrained_cfg'):
        raise ValueError(
            'The model has no pretrained_cfg, so its preprocessing is unknown; make it by '
            "timm.create_model('resnet50', ...), or set model.pretrained_cfg as timm does.")
    args = get_model_args(model, se.model_args())
    # what says how the model is made, loaded or trained does not say what it is
    args = {k: v for k, v in args.items() if k in _NETWORK or k.startswith('se_')}
    for key, value in args.items():
        try:
            json.dumps(value)
        except TypeError as e:
            way_out = ("make the model with a name instead, for example act_layer='silu'" if key != 'aa_layer' else
                       'timm has no names for these, so save the state dict instead')
            raise ValueError(f'{key}={value!r}: config.json holds plain values only; {way_out}.') from e
    own = cast(dict[str, Any], model.pretrained_cfg).get('architecture')
    architecture = own if own in OURS else OURS[0]  # both build the same network
    _check_rebuilds(model, architecture, args)
    if portable and se != SEConfig():
        raise ValueError(
            f"portable=True: timm's {PORTABLE} has {SEConfig()}, this model has {se}; "
            'leave portable out. People then need timm-se50 to load it.')

    names = _label_names(model, label_names)
    with tempfile.TemporaryDirectory() as tmp:  # timm writes a file, it has no function that returns a config
        path = Path(tmp, 'config.json')
        save_config_for_hf(model, str(path), {'label_names': names}, args, _data_config(data_config or {}))
        config = json.loads(path.read_text())
    # At the root it stays; with both, transformers' TimmWrapper passes it twice. timm adds what the model was made with
    config['model_args'] = {k: v for k, v in config['model_args'].items() if k in args and k != 'num_classes'}
    config['pretrained_cfg'].pop('label_names', None)  # those at the root are read, and fit
    config['architecture'] = architecture
    check_config(config, 'What would be the config.json of this model')
    if portable:
        config['architecture'] = PORTABLE
        config['model_args'] = {k: v for k, v in config['model_args'].items() if not k.startswith('se_')}
    return config, architecture, se


def _data_config(data_config: Mapping[str, Any]) -> dict[str, Any]:
    """It in plain numbers, after a check."""
    unknown = sorted(data_config.keys() - _PREPROCESSING)
    if unknown:
        raise ValueError(f'data_config: {unknown[0]!r} is unknown; expected some of {", ".join(_PREPROCESSING)}.')
    plain = dict(data_config)
    for key in plain.keys() & {'mean', 'std'}:  # often of NumPy or a tensor, as measured
        values = [plain[key]] if isinstance(plain[key], Real) else plain[key]
        plain[key] = None if values is None else [v.item() if hasattr(v, 'item') else v for v in values]
    check_saved({k: v for k, v in plain.items() if k not in ('img_size', 'in_chans')}, {}, 'data_config')
    return plain


def _label_names(model: nn.Module, label_names: Sequence[str] | None) -> list[str] | dict[str, str] | None:
    num_classes = cast(int, model.num_classes)
    if label_names is None:
        names = cast(dict[str, Any], model.pretrained_cfg).get('label_names')
        return names if names and len(names) == num_classes else None
    if isinstance(label_names, (str, Mapping, Set)):
        raise ValueError(f'label_names={label_names!r}: expected a list of names, in the order of the classes.')
    names = [str(name) for name in label_names]
    if len(names) != num_classes:
        raise ValueError(f'label_names has {len(names)} names; expected {num_classes}, one for each class.')
    return names


def _check_rebuilds(model: nn.Module, architecture: str, args: Mapping[str, Any]) -> None:
    """Raise a ValueError unless `timm.create_model(architecture, **args)` builds what `model` is."""
    with torch.device('meta'):
        rebuilt = timm.create_model(architecture, **args)
    found, expected = _layers(model), _layers(rebuilt)
    for name in found | expected:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{name or 'The model'} is {found.get(name, 'missing')}, where {architecture} has "
                f"{expected.get(name, 'nothing')}. Expected a ResNet-50 with SE, made by timm.create_model().")
    shapes = {k: tuple(v.shape) for k, v in rebuilt.state_dict().items()}
    weights = model.state_dict()
    for key in shapes | weights:
        shape = tuple(weights[key].shape) if key in weights else None
        # a frozen BatchNorm counts no batches
        if shape != shapes.get(key) and not (shape is None and key.endswith('num_batches_tracked')):
            raise ValueError(f'{key!r} has shape {shape}, where {architecture} has {shapes.get(key)}. '
                             'Expected a ResNet-50 with SE, made by timm.create_model().')


def _layers(model: nn.Module) -> dict[str, str]:
    """What each module below a model computes in eval mode, by name."""
    layers = {}
    for name, module in model.named_modules():
        kind = type(module).__name__.replace('MemoryEfficient', 'SE')  # how one trains, not what the model is
        if not name or isinstance(module, (nn.Identity, nn.Dropout, DropPath, DropBlock2d)):
            continue
        if isinstance(module, BATCH_NORMS):
            known = type(module) in BATCH_NORMS
            layers[name] = f'{"BatchNorm2d" if known else kind}({module.eps})'
        elif isinstance(module, SEModule):
            layers[name] = f'{kind}(neutral={module.neutral})'
        elif any(True for _ in module.children()):
            layers[name] = kind
        else:
            layers[name] = re.sub(r'(, )?inplace=\w+', '', repr(module))
    return layers
