"""The config.json of a model: all that `timm.create_model()` needs to build it again, read off the model itself."""
import copy
import json
import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any, cast

from timm.layers import DropBlock2d, DropPath, SqueezeExcite
from timm.models._hub import save_config_for_hf  # timm.models has only save_for_hf, which writes weights too
from timm.models.resnet import ResNet
from torch import nn

from ..block_weights import BATCH_NORMS
from ..bottleneck import SEBlock
from ..se_resnet50 import SEResNet
from ..squeeze_excite import POSITIONS, SEConfig, SEModule
from .network import network_args
from .outline import OURS, PORTABLE, first_conv, make_outline

__all__ = ['checkpoint_config', 'se_config']

_SIZES, _NAMES = ('input_size', 'test_input_size'), ('crop_mode', 'interpolation')
_PREPROCESSING = (*_SIZES, *_NAMES, 'mean', 'std', 'crop_pct', 'test_crop_pct', 'img_size', 'in_chans')


def se_config(model: nn.Module) -> SEConfig:
    """The SE settings of a model, derived from its blocks.

    Raises:
        ValueError: The model is not a ResNet with SE blocks, or its stages have SE at different positions.
    """
    if type(model) not in (ResNet, SEResNet):
        raise ValueError(
            f'The model is a {type(model).__module__}.{type(model).__qualname__}; expected a ResNet of timm with SE. '
            'Of any other model with SE save the state dict and the SEConfig: docs/any_model.md has the lines.')
    if any(getattr(m, 'inference_form', False) for m in model.modules()):
        raise ValueError('This is the inference form of a model; save the model that it was made from.')
    if any(isinstance(m, SqueezeExcite) for m in model.modules()):
        raise ValueError(
            f"The model is timm's own {PORTABLE}, as save_checkpoint(portable=True) writes it; load its state dict "
            f'into {OURS[0]}, or push it with timm.models.push_to_hf_hub().')
    reductions: dict[int, int] = {}
    positions = set()
    for stage in (1, 2, 3, 4):
        for block in cast(nn.Module, getattr(model, f'layer{stage}')).children():
            if isinstance(block, SEBlock):
                se = cast(SEModule, getattr(block, POSITIONS[block.se_position]))
                reductions.setdefault(stage, se.fc1.in_channels // se.fc1.out_channels)
                positions.add(block.se_position)
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
        model: A ResNet of timm with SE, not wrapped.
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
    args = network_args(model) | se.model_args()
    if portable and (se != SEConfig() or 'block' in args):
        raise ValueError(
            f"portable=True: timm's {PORTABLE} has bottlenecks and {SEConfig()}, this model has "
            f"{args.get('block', 'bottleneck')} blocks and {se}; leave portable out. People then need timm-se50 to "
            'load it.')
    own = cast(dict[str, Any], model.pretrained_cfg).get('architecture')
    architecture = own if own in OURS else OURS[0]  # both build the same network

    with tempfile.TemporaryDirectory() as tmp:  # timm writes a file, it has no function that returns a config
        path = Path(tmp, 'config.json')
        labels = {'label_names': _label_names(model, label_names)}
        shown: Any = copy.copy(model)
        shown._model_args = args  # in place of what the model was made with, which may be no JSON
        save_config_for_hf(shown, str(path), labels, None, _data_config(data_config or {}))
        config = json.loads(path.read_text())
    config['architecture'] = architecture
    # At the root it stays; with both, transformers' TimmWrapper passes it twice
    config['model_args'].pop('num_classes', None)
    cfg = config['pretrained_cfg']
    cfg.pop('label_names', None)  # those at the root are read, and fit
    cfg['classifier'] = 'fc'
    cfg['first_conv'] = first_conv(model)
    try:
        outline = make_outline(architecture, cfg, config['model_args'])
    except Exception as e:  # of what has no name, an activation of the user's own
        raise ValueError(f'No config.json can describe the model: {type(e).__name__}: {e}. Save the state dict and the '
                         'SEConfig (docs/any_model.md).') from e
    _check_rebuilds(model, outline)
    if portable:
        config['architecture'] = PORTABLE
        config['model_args'] = {k: v for k, v in config['model_args'].items() if not k.startswith('se_')}
    return config, architecture, se


def _data_config(data_config: Mapping[str, Any]) -> dict[str, Any]:
    """It in plain numbers and names, after a check."""
    plain = json.loads(json.dumps(dict(data_config), default=lambda v: v.tolist()))  # of NumPy or a tensor, as measured
    for key, value in plain.items():
        if key not in _PREPROCESSING:
            raise ValueError(f'data_config: {key!r} is unknown; expected some of {", ".join(_PREPROCESSING)}.')
        kind, expected = (str, 'a name') if key in _NAMES else (Real, 'numbers')
        several = value if isinstance(value, list) else [value]
        fits = all(isinstance(v, kind) for v in several) and (key not in _SIZES or len(several) == 3)
        if value is not None and not fits:
            raise ValueError(f'data_config: {key!r} is {value!r}; expected {expected}{", three" * (key in _SIZES)}.')
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


def _check_rebuilds(model: nn.Module, outline: nn.Module) -> None:
    """Raise a ValueError unless an outline is what `model` is, layer by layer and weight by weight."""
    for of in (_layers, _shapes):
        found, expected = of(model), of(outline)
        for name in found | expected:
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"{name} is {found.get(name, 'missing')}, where the arguments of timm's ResNet make it "
                    f"{expected.get(name, 'nothing')}. Expected a ResNet as timm builds it, with SE in whole stages; "
                    'of another save the state dict and the SEConfig (docs/any_model.md).')


def _shapes(model: nn.Module) -> dict[str, str]:
    return {k: f'of shape {tuple(v.shape)}' for k, v in model.state_dict().items()
            if not k.endswith('num_batches_tracked')}  # a frozen BatchNorm counts none


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
            layers[name] = f'{kind}(neutral={module.neutral}, scales={module.logit_scale, module.gate_scale})'
        elif any(True for _ in module.children()):
            layers[name] = kind
        else:
            layers[name] = re.sub(r'(, )?inplace=\w+', '', repr(module))
    return layers
