"""A model as a folder: safetensors, config.json, a card; and files of weights made such folders."""
from .card import CardConfig
from .config import se_config
from .convert import convert_checkpoint
from .folder import FILES, checkpoint_files, replace_files, save_checkpoint
from .load import load_model, read_weights
from .outline import check_folder

__all__ = [
    'FILES', 'CardConfig', 'check_folder', 'checkpoint_files', 'convert_checkpoint', 'load_model', 'read_weights',
    'replace_files', 'save_checkpoint', 'se_config',
]
