"""A file of weights that cannot be read: which one it is, whatever error its bytes end in."""
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ['Reading', 'unreadable']


def unreadable(place: object, error: Exception) -> Exception:
    """The error to raise where a reader failed on a file: torch, pickle and safetensors name it in none of theirs."""
    if isinstance(error, FileNotFoundError) and not error.filename:
        return FileNotFoundError(f'{place}: there is no such file.')
    if isinstance(error, OSError) and error.filename:
        return error
    said = ' '.join(str(error).split()) or 'it ends too early'
    return ValueError(
        f'{place} cannot be read: {type(error).__name__}: {said.rstrip(".")}. Expected a whole safetensors file, or '
        'one of torch.save() with a state dict and no code; get it anew, or save the weights alone.')


class Reading:
    """Which part of `timm.models.build_model_with_cfg()` is under way, for an error to say whose it is.

    Pass `build` and `filter` on to timm. In between, with `now` true, it reads a file.

    Args:
        model_class: Class of the model.
        filter_fn: As timm's `pretrained_filter_fn`.
    """

    def __init__(
            self,
            model_class: Callable[..., nn.Module],
            filter_fn: Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]],
    ):
        self.model_class, self.filter_fn = model_class, filter_fn
        self.built = self.now = False

    def build(self, *args, **kwargs) -> Any:
        model = self.model_class(*args, **kwargs)
        self.built = self.now = True
        return model

    def filter(self, state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        self.now = False
        try:
            return self.filter_fn(state_dict, model)
        except TypeError as e:  # timm takes it for the sign of a filter function that does not want the model
            raise RuntimeError(f'The weights cannot be mapped: {e}') from e
