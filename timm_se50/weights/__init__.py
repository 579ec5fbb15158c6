"""State dicts: what they look like, whether they fit, and a plain ResNet's made those of one with SE."""
from .check import check_weights
from .mapping import clean_weights, map_resnet_weights, seresnet50_weights
from .naming import naming
from .recognise import recognise

__all__ = ['check_weights', 'clean_weights', 'map_resnet_weights', 'naming', 'recognise', 'seresnet50_weights']
