"""Random initialization that waits until it is known which weights are loaded."""
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

__all__ = ['DeferredInit']

# What torch.nn.init comes down to. Some of its functions a mode sees as a whole, of the others what they call.
_RANDOM = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class DeferredInit(TorchFunctionMode):
    """Within it, convolution weights stay as allocated; `settle()` initializes those that were not written since.

    More than half the time of making a pretrained ResNet-50 goes into random numbers that its weights overwrite at
    once. The mode is seen by the thread that enters it only, and what is no convolution weight is initialized as ever.

        deferred = DeferredInit()
        with deferred:
            model = ResNet(...)
        model.load_state_dict(...)
        deferred.settle()
    """

    def __init__(self):
        super().__init__()
        self._pending = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _RANDOM:
            tensor = args[0] if args else kwargs['tensor']
            if tensor.ndim == 4 and not tensor.is_inference():  # an inference tensor counts no writes
                self._pending[id(tensor)] = (tensor, tensor._version, func, args, kwargs)
                return tensor
        return func(*args, **kwargs)

    @torch.no_grad()
    def settle(self) -> None:
        """Initialize what has not been written to since, each tensor by the last call that was held back."""
        for tensor, version, func, args, kwargs in self._pending.values():
            if tensor._version == version:
                func(*args, **kwargs)
        self._pending.clear()
