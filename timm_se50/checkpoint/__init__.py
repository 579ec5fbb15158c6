"""A model as a folder: safetensors, config.json, a card; and files of weights made such folders."""
from .card import CardConfig
from .config import se_config
from .convert import Conversion, convert_checkpoint, model_name
from .folder import FILES, save_checkpoint, write_checkpoint
from .load import load_model, read_weights
from .outline import check_folder
from .replacing import replacing

__all__ = [
    'FILES', 'CardConfig', 'Conversion', 'check_folder', 'convert_checkpoint', 'load_model', 'model_name',
    'read_weights', 'replacing', 'save_checkpoint', 'se_config', 'write_checkpoint',
]
