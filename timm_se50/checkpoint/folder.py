"""A model as a folder: weights as safetensors, config.json and a model card; nothing is pickled."""
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save
from timm.utils import unwrap_model
from torch import Tensor, nn

from ..weights import naming, recognise, seresnet50_weights
from .card import CardConfig, origin, render_card
from .config import checkpoint_config

__all__ = ['FILES', 'checkpoint_files', 'replace_files', 'save_checkpoint']

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
    source = f'local-dir:{folder.name}'
    replace_files(folder, checkpoint_files(model, source, portable, label_names, data_config, card))
    return folder


def checkpoint_files(
        model: nn.Module,
        source: str,
        portable: bool,
        label_names: Sequence[str] | None,
        data_config: Mapping[str, Any] | None,
        card: CardConfig,
) -> dict[str, bytes]:
    """The three files, by name; `source` is the name that the card loads the model by."""
    model = unwrap_model(model)
    config, se = checkpoint_config(model, portable, label_names, data_config)
    base_model, license = origin(cast(dict[str, Any], model.pretrained_cfg), card)
    for key in ('tag', 'origin_url', 'paper_name', 'paper_ids'):  # of the weights that it started from
        config['pretrained_cfg'].pop(key, None)
    config['pretrained_cfg'] |= {'hf_hub_id': base_model, 'license': license}
    network = recognise(model.state_dict()).partition(' (se_stages=')[0]  # the settings of SE are a line of their own
    weights = seresnet50_weights(model) if portable else model.state_dict()
    tensors = {key: _plain(key, value) for key, value in weights.items()}
    return {
        'model.safetensors': save(tensors, metadata={'format': 'pt'}),  # transformers asks for 'format'
        'config.json': (json.dumps(config, indent=2) + '\n').encode(),
        'README.md': render_card(config, network, se, card, source).encode(),
    }


def _plain(key: str, tensor: Tensor) -> Tensor:
    """A tensor as safetensors takes it: dense, contiguous, in memory of its own, on the CPU."""
    if hasattr(tensor, 'full_tensor'):
        raise ValueError(f'{key!r} is sharded; gather the weights first, for example with '
                         'torch.distributed.checkpoint.state_dict.get_model_state_dict(full_state_dict=True).')
    if tensor.is_meta:
        raise ValueError(f'{key!r} is on the meta device and so has no data; load the weights first.')
    return tensor.detach().cpu().contiguous()


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Give a folder, made if need be, these of `FILES` and no others of them; all or none.

    Each is written beside the one that is there, and takes its place in one step.

    Raises:
        OSError: One cannot be written, moved or removed. What was there is put back.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file; expected a folder, or a name for a new one.')
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), tempfile.TemporaryDirectory(dir=folder, prefix='.timm-se50-') as tmp:
        new, old = Path(tmp, 'new'), Path(tmp, 'old')
        new.mkdir()
        old.mkdir()
        for name, content in files.items():
            (new / name).write_bytes(content)
        there = [name for name in FILES if os.path.lexists(folder / name)]
        for name in there:
            shutil.copy2(folder / name, old / name, follow_symlinks=False)
        try:
            for name in files:
                os.replace(new / name, folder / name)
            for name in there:
                if name not in files:
                    (folder / name).unlink()
        except BaseException:
            for name in [name for name in FILES if not (new / name).exists()]:  # it has been moved
                if name in there:
                    os.replace(old / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
            raise
