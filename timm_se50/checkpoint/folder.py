"""A model as a folder: weights as safetensors, config.json and a model card; nothing is pickled."""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.utils import unwrap_model
from torch import Tensor, nn

from ..weights import recognise, seresnet50_weights
from .card import CardConfig, is_tag_of, origin, render_card
from .config import checkpoint_config
from .replacing import replacing

__all__ = ['FILES', 'save_checkpoint', 'write_checkpoint']

FILES = ('model.safetensors', 'config.json', 'README.md')


def save_checkpoint(
        model: nn.Module,
        folder: str | os.PathLike,
        *,
        portable: bool = False,
        label_names: Sequence[str] | None = None,
        data_config: Mapping[str, Any] | None = None,
        card: CardConfig = CardConfig(),
) -> Path:
    """Save a model to a folder, for `timm.create_model('local-dir:FOLDER', pretrained=True)`.

    The folder gets model.safetensors, config.json and README.md, the card. The SE settings are read off the blocks, so
    that a live timm resnet50 with SE put in by `replace_blocks_()` or `patch_blocks_()` will do, as will a model that
    DDP, torch.compile() or timm's ModelEma wraps. A process that is killed meanwhile leaves a folder `.timm-se50-*`.

    Args:
        model: A ResNet of timm with SE, of whatever depth, stem and width.
        folder: Folder to write to, made if need be; other files in it stay.
        portable: Save as timm's own `seresnet50`, for people without this plugin; for the default SE settings only.
        label_names: Name of each class; by default those that the model was loaded with.
        data_config: Preprocessing that differs from `model.pretrained_cfg`, as for timm's `resolve_data_config()`:
            'mean', 'std', 'input_size', 'crop_pct', ...
        card: What the card says beyond what the model itself tells.

    Returns:
        The folder.

    Raises:
        ValueError: The model is not one that can be saved, or an argument does not fit it; the message says why.
        OSError: A file cannot be written. After either, the folder holds what it held before.
    """
    folder = Path(os.path.abspath(folder))
    with replacing(folder, FILES) as new:
        write_checkpoint(
            model, new, portable=portable, label_names=label_names, data_config=data_config, card=card,
            source=f'local-dir:{folder.name}')
    return folder


def write_checkpoint(
        model: nn.Module,
        folder: Path,
        *,
        portable: bool,
        label_names: Sequence[str] | None,
        data_config: Mapping[str, Any] | None,
        card: CardConfig,
        source: str,
) -> None:
    """Write the three files into a folder that exists; `source` is the name that the card loads the model by."""
    model = unwrap_model(model)
    config, architecture, se = checkpoint_config(model, portable, label_names, data_config)
    base_model, license, of_tag = origin(model.pretrained_cfg, card)  # type: ignore[arg-type]
    config['pretrained_cfg']['license'] = license
    if not of_tag:
        for key in ('origin_url', 'paper_name', 'paper_ids'):
            config['pretrained_cfg'].pop(key, None)  # of the weights that it did not start from
    if not of_tag or portable or not is_tag_of(config, base_model):
        # the tag would name another origin, or one of timm's seresnet50, when the model is saved once more
        config['pretrained_cfg'].pop('tag', None)
    network = recognise(model.state_dict()).partition(' (se_stages=')[0]  # the settings of SE are a line of their own
    text = render_card(config, architecture, network, se, card, base_model, source)
    weights = seresnet50_weights(model) if portable else model.state_dict()
    tensors = {k: _plain(k, v) for k, v in weights.items()}

    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    (folder / 'README.md').write_text(text, encoding='utf-8')
    try:
        save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})  # transformers asks for 'format'
    except SafetensorError as e:
        raise OSError(f'model.safetensors could not be written to {folder}: {e}') from e
    (folder / 'model.safetensors').chmod((folder / 'config.json').stat().st_mode)  # safetensors makes it private


def _plain(key: str, tensor: Tensor) -> Tensor:
    """A tensor as safetensors takes it: dense, contiguous, in memory of its own, on the CPU."""
    if hasattr(tensor, 'full_tensor'):
        raise ValueError(f'{key!r} is sharded; gather the weights first, for example with '
                         'torch.distributed.checkpoint.state_dict.get_model_state_dict(full_state_dict=True).')
    if tensor.is_meta:
        raise ValueError(f'{key!r} is on the meta device and so has no data; load the weights first.')
    return tensor.detach().cpu().contiguous()
