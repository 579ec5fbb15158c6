"""The config.json of a model: all that `timm.create_model()` needs to build it again, read off the model itself."""
import copy
import json
import re
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

from timm.data import create_transform, resolve_data_config
from timm.layers import DropBlock2d, DropPath
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

_DATA_CONFIG = {
    'input_size', 'test_input_size', 'img_size', 'in_chans', 'mean', 'std', 'interpolation', 'crop_pct',
    'test_crop_pct', 'crop_mode'}


def se_config(model: nn.Module) -> SEConfig:
    """The SE settings of a model, derived from its blocks.

    Raises:
        ValueError: The model is not a ResNet of timm with SE blocks.
    """
    if type(model) not in (ResNet, SEResNet):
        raise ValueError(
            f'The model is a {type(model).__module__}.{type(model).__qualname__}; expected a ResNet of timm with SE. '
            'Of any other model with SE save the state dict and the SEConfig: docs/any_model.md has the lines.')
    stages: dict[int, Any] = {
        stage: block for stage in (1, 2, 3, 4) for block in cast(nn.Sequential, getattr(model, f'layer{stage}'))
        if isinstance(block, SEBlock)}
    if not stages:
        raise ValueError(
            'The model has no SE blocks of ours; put them in with timm_se50.replace_blocks_(model). Save what is of '
            'timm, as its seresnet50, with timm.models.push_to_hf_hub(), of an inference form its model.')
    reductions = []
    for block in stages.values():
        se = getattr(block, POSITIONS[block.se_position])
        reductions.append(se.fc1.in_channels // se.fc1.out_channels)
    same = len(set(reductions)) == 1
    return SEConfig(reductions[0] if same else tuple(reductions), tuple(stages), block.se_position)


def checkpoint_config(
        model: nn.Module,
        portable: bool,
        label_names: Sequence[str] | None,
        data_config: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], SEConfig]:
    """The config.json and the SE settings of a model; the arguments are those of `save_checkpoint()`.

    Raises:
        ValueError: An argument does not fit the model, or the network that the config describes is not the model.
    """
    se = se_config(model)
    if not hasattr(model, 'pretrained_cfg'):
        raise ValueError('The model has no pretrained_cfg, and so no preprocessing; make it by '
                         "timm.create_model('resnet50', ...), or set model.pretrained_cfg as timm does.")
    args = network_args(model) | se.model_args()
    if portable and (se != SEConfig() or 'block' in args):
        raise ValueError(
            f"portable=True: timm's {PORTABLE} has bottlenecks and {SEConfig()}, this model has "
            f"{args.get('block', 'bottleneck')} blocks and {se}; leave portable out. People then need timm-se50 to "
            'load it.')
    config = _written_by_timm(model, args, data_config or {})
    if config['architecture'] not in OURS:  # both of which build the same network
        config['architecture'] = OURS[0]
    # At the root it stays; with both, transformers' TimmWrapper passes it twice
    del config['model_args']['num_classes']
    cfg = config['pretrained_cfg'] | {'classifier': 'fc', 'first_conv': first_conv(model)}
    names = cfg.pop('label_names', None)  # those that it was loaded with, if they fit
    if label_names is not None:
        if isinstance(label_names, (str, Mapping, Set)) or len(label_names) != model.num_classes:
            raise ValueError(f'label_names={label_names!r:.60}: expected a list of {model.num_classes} names.')
        names = [str(name) for name in label_names]
    config |= {'pretrained_cfg': cfg, 'label_names': names}
    _check_rebuilds(model, make_outline('config.json', config['architecture'], cfg, config['model_args']))
    if portable:
        config['architecture'] = PORTABLE
        config['model_args'] = {k: v for k, v in config['model_args'].items() if not k.startswith('se_')}
    return config, se


def _written_by_timm(model: nn.Module, args: dict[str, Any], data_config: Mapping[str, Any]) -> dict[str, Any]:
    """The config that timm's own function writes: it has none that returns one."""
    if unknown := sorted(data_config.keys() - _DATA_CONFIG):
        raise ValueError(f'data_config: {unknown[0]!r} is unknown; expected some of {", ".join(sorted(_DATA_CONFIG))}.')
    shown: Any = copy.copy(model)
    shown._model_args = args  # in place of what the model was made with, which may be no JSON
    try:
        plain = json.loads(json.dumps(dict(data_config), default=lambda v: v.tolist()))  # of NumPy or a tensor
        with tempfile.TemporaryDirectory() as tmp:
            path = Path(tmp, 'config.json')
            save_config_for_hf(shown, str(path), data_config=plain)
            config = json.loads(path.read_text())
        for use_test_size in (False, True):
            create_transform(**resolve_data_config(
                pretrained_cfg=config['pretrained_cfg'], use_test_size=use_test_size))
    except Exception as e:  # what timm makes of values of another kind has no bound
        raise ValueError(f'data_config={data_config}: timm can write no config with it: {type(e).__name__}: {e}') from e
    return config


def _check_rebuilds(model: nn.Module, outline: nn.Module) -> None:
    """Raise a ValueError unless an outline is what `model` is, layer by layer and weight by weight."""
    found, expected = _described(model), _described(outline)
    for name in found | expected:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{name} is {found.get(name, 'missing')}, where the arguments of timm's ResNet make it "
                f"{expected.get(name, 'nothing')}. Expected a ResNet as timm builds it, with SE in whole stages; of "
                'another save the state dict and the SEConfig (docs/any_model.md).')


def _described(model: nn.Module) -> dict[str, str]:
    """What each module below a model computes in eval mode, and the shape of each weight, by name."""
    layers = {}
    for name, module in model.named_modules():
        kind = type(module).__name__.replace('MemoryEfficient', 'SE')  # how one trains, not what the model is
        if not name or isinstance(module, (nn.Identity, nn.Dropout, DropPath, DropBlock2d)):
            continue
        if type(module) in BATCH_NORMS:
            layers[name] = f'BatchNorm2d({module.eps})'
        elif isinstance(module, SEModule):
            layers[name] = f'{kind}(neutral={module.neutral}, scales={module.logit_scale, module.gate_scale})'
        elif any(True for _ in module.children()):
            layers[name] = kind
        else:
            layers[name] = re.sub(r'(, )?inplace=\w+', '', repr(module))
    return layers | {
        key: f'of shape {tuple(value.shape)}' for key, value in model.state_dict().items()
        if not key.endswith('num_batches_tracked')}  # a frozen BatchNorm counts none
