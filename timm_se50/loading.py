"""What `load_state_dict()` makes of a plain ResNet's weights in a model with SE."""
from typing import Any

from torch import Tensor, nn

from .weights.check import check_weights
from .weights.mapping import add_se_weights_
from .weights.recognise import is_plain, is_se_key

__all__ = ['map_on_load_']

# What a ResNet has beside its classifier
_BACKBONE = ('conv1.', 'bn1.', 'maxpool.', 'layer1.', 'layer2.', 'layer3.', 'layer4.')


def map_on_load_(
        model: nn.Module,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        *_: object,
) -> None:
    """Put neutral SE modules into a whole plain ResNet's weights; a hook for `register_load_state_dict_pre_hook()`.

    Args:
        model: The model with SE blocks.
        state_dict: torch's own copy, made for this call; it is filled in before the children get their share.
        prefix: Of the model's keys in it.
        local_metadata: torch's; says whether the weights are to be assigned.

    Raises:
        RuntimeError: A shape is not the model's. Nothing has been loaded then.
    """
    target = model.state_dict()
    own = {k: state_dict[prefix + k] for k in target if prefix + k in state_dict}
    needed = {k for k in target if k.startswith(_BACKBONE) and not (is_se_key(k) or k.endswith('_tracked'))}
    if needed and is_plain(own) and own.keys() >= needed:
        check_weights(own, {k: target[k] for k in own})  # torch reports what is missing beside the backbone
        add_se_weights_(own, model, local_metadata.get('assign_to_params_buffers', False))
        state_dict.update((prefix + k, v) for k, v in own.items())
