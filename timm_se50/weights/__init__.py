"""State dicts: what they look like, whether they fit, and a plain ResNet's made those of one with SE."""
from .check import check_data, check_weights
from .mapping import clean_weights, map_blocks_, map_resnet_weights, map_weights, seresnet50_weights
from .recognise import recognise

__all__ = ['check_data', 'check_weights', 'clean_weights', 'map_blocks_', 'map_resnet_weights', 'map_weights',
           'recognise', 'seresnet50_weights']
