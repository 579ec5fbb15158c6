"""Models to and from the Hugging Face Hub."""
from .pull import download_checkpoint, pull_from_hub
from .push import Pushed, push_to_hub

__all__ = ['Pushed', 'download_checkpoint', 'pull_from_hub', 'push_to_hub']
