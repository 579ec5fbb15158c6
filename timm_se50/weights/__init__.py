"""State dicts: what they look like, whether they fit, and a plain ResNet's made those of one with SE."""
from .check import check_data, check_shapes, check_weights
from .mapping import clean_weights, map_resnet_weights, map_weights, seresnet50_weights
from .reading import Reading, unreadable
from .recognise import is_se_key, recognise

__all__ = [
    'Reading', 'check_data', 'check_shapes', 'check_weights', 'clean_weights', 'is_se_key', 'map_resnet_weights',
    'map_weights', 'recognise', 'seresnet50_weights', 'unreadable',
]
