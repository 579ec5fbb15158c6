"""Squeeze-and-Excitation into a live model, by either of two routes, with its function preserved."""
import weakref
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar, cast

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet as torchvision_resnet

from .bottleneck import SEBasicBlock, SEBlock, SEBottleneck
from .resnets import EXPECTED, find_resnets
from .squeeze_excite import POSITIONS, SEConfig, SEModule

__all__ = ['insert_se_', 'patch_block', 'patch_blocks_', 'replace_block', 'replace_blocks_', 'spare_fc2_']

ModelT = TypeVar('ModelT', bound=nn.Module)

_SE_CLASSES: dict[type[nn.Module], type[SEBlock]] = {
    Bottleneck: SEBottleneck, torchvision_resnet.Bottleneck: SEBottleneck,
    BasicBlock: SEBasicBlock, torchvision_resnet.BasicBlock: SEBasicBlock}
# Each keeps a list of the parameters that there were, or goes through them side by side with those of another model
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel, ModelEmaV2, ModelEmaV3)


def replace_blocks_(model: ModelT, config: SEConfig = SEConfig()) -> ModelT:
    """Put SE into every ResNet that a model is or holds, in place: a new block stands in each one's stead.

    The new block takes over the old one's submodules. The model computes what it computed before, bit for bit, with the
    parameters it had and those of the SE modules beside them. Add the latter, `se_parameters(model)`, to an optimizer
    that exists.

    Args:
        model: A ResNet of timm or torchvision, of `Bottleneck` or `BasicBlock` blocks, or what holds one or more: a
            detector, a segmentation network, a module of your own.
        config: Where SE goes and how wide.

    Returns:
        The model.

    Raises:
        ValueError: The model is not one that SE can go into; the message says why. The model is left unchanged.
    """
    return spare_fc2_(insert_se_(model, config, replace_block))


def patch_blocks_(model: ModelT, config: SEConfig = SEConfig()) -> ModelT:
    """Put SE into every ResNet that a model is or holds, in place: each block stays the object it was.

    As `replace_blocks_`, with the same result, for code that holds on to the blocks.
    """
    return spare_fc2_(insert_se_(model, config, patch_block))


def replace_block(block: nn.Module) -> SEBlock:
    """A new SE block, less its SE module, that holds all that `block` holds: submodules, hooks, mode."""
    se_class = _SE_CLASSES[type(block)]
    new = se_class.__new__(se_class)
    new.__dict__.update(block.__dict__, _modules=dict(block._modules))
    for hook in getattr(block, '_load_state_dict_pre_hooks', {}).values():
        if getattr(hook, 'with_module', False):  # PyTorch keeps a weak reference to the module in it
            hook.module = weakref.ref(new)
    return _complete_(new)


def patch_block(block: nn.Module) -> SEBlock:
    """`block` itself, made an SE block, less its SE module."""
    # The class, not the forward, is swapped: pickle, deepcopy and TorchScript go by the class. A forward bound to
    # the instance gets lost in the first, calls the original in the second and is shared by mistake in the third.
    block.__class__ = _SE_CLASSES[type(block)]
    return _complete_(block)


def _complete_(block: Any) -> SEBlock:
    """Give a block that was torchvision's what timm's has beside it, none of which has weights."""
    if not hasattr(block, 'aa'):
        block.aa, block.drop_block, block.drop_path = nn.Identity(), nn.Identity(), None
        block.dilation = getattr(block.conv2, 'dilation', 1)
        # Names for the one ReLU, which keeps its own: hooks and what torch.fx calls its outputs stay
        for i in range(1, 4 if hasattr(block, 'conv3') else 3):
            setattr(block, f'act{i}', block.relu)
    return block


def insert_se_(model: ModelT, config: SEConfig, convert: Callable[[nn.Module], SEBlock]) -> ModelT:
    """Put SE into the blocks of a model, each made an SE block by `convert`; all checks come first."""
    _check_model(model)
    found: list[tuple[nn.Module, SEModule]] = []
    for path, resnet in find_resnets(model).items():
        prefix = f'{path}.' if path else ''
        start = len(found)  # numbers are of its own, so that copies of one ResNet stay copies
        for stage, reduction in config.stage_reductions():
            layer = getattr(resnet, f'layer{stage}', None)
            if not isinstance(layer, nn.Module) or not any(layer.children()):
                raise ValueError(
                    f'se_stages={config.stages}: the {type(resnet).__name__}{path and f" at {path}"} has no blocks in '
                    f'layer{stage}; name the stages that every ResNet in the model has.')
            # not named_children(), which passes over a block that stands twice
            for name, block in cast(dict[str, Bottleneck], layer._modules).items():
                _check_block(f'{prefix}layer{stage}.{name}', block)
                found.append((block, _make_se(block, reduction, config.position, len(found) - start)))
    if len({id(block) for block, _ in found}) < len(found):
        raise ValueError('Two of the blocks are one module. Give each its own, for example copy.deepcopy(block).')

    blocks: dict[nn.Module | None, SEBlock] = {}
    for old, se in found:
        blocks[old] = convert(old)
        blocks[old].attach_se(se, config.position)
    for holder in list(model.modules()):  # of which a block may have several
        for name, child in holder._modules.items():
            if child in blocks:
                holder._modules[name] = blocks[child]
    return model


def spare_fc2_(model: ModelT) -> ModelT:
    """Have timm's optimizer factory, which asks the model that it is given, leave weight decay out for each fc2.

    LAMB and LARS scale the step of a decayed weight by its norm, which would keep a zero fc2 where it is.
    """
    model.no_weight_decay = partial(_no_weight_decay, getattr(model, 'no_weight_decay', set))  # type: ignore[assignment]
    return model


def _no_weight_decay(theirs: Callable[[], Collection[str]]) -> set[str]:
    return {f'*{name}.fc2.weight' for name in POSITIONS.values()} | set(theirs())


def _make_se(block: Bottleneck, reduction: int, position: str, number: int) -> SEModule:
    """An SE module for a block, where the block is and in its dtype."""
    weight = block.conv1.weight
    last_conv = getattr(block, _SE_CLASSES[type(block)].last_conv)
    channels = block.conv1.in_channels if position == 'pre' else last_conv.out_channels
    se = SEModule(channels, reduction, neutral=True, number=number, device=weight.device, dtype=weight.dtype)
    return se.train(block.training)


def _check_model(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError('The model is a TorchScript module, which is compiled; put SE in before torch.jit.script().')
    if any(hasattr(m, '_orig_mod') or getattr(m, '_compiled_call_impl', None) is not None for m in model.modules()):
        raise ValueError('The model is compiled; put SE in before torch.compile().')
    for wrapper in model.modules():
        if isinstance(wrapper, _WRAPPERS):
            raise ValueError(
                f'The model is wrapped in a {type(wrapper).__name__}, which goes by the parameters it had; '
                f'put SE in before it is wrapped.')
    if any(type(m).__name__.startswith(('FSDP', 'FullySharded', 'DeepSpeed')) for m in model.modules()):
        raise ValueError('The model is sharded; put SE in before fully_shard() or what else did it.')


def _check_block(name: str, block: nn.Module) -> None:
    if isinstance(block, SEBlock):
        raise ValueError(f'{name} has SE already; make the model anew to change its settings.')
    if getattr(block, 'inference_form', False):
        raise ValueError(f'{name} is of the inference form of a model with SE; take the model that it was made from.')
    if type(block) not in _SE_CLASSES:
        raise ValueError(
            f'{name} is a {type(block).__module__}.{type(block).__qualname__}; expected {EXPECTED}, and no subclass, '
            'whose forward may be another.')
    if getattr(block, 'se', None) is not None:
        raise ValueError(
            f'{name}.se is a {type(block.se).__name__}: the block has attention already. Start from a plain ResNet.')
    if 'forward' in vars(block):
        raise ValueError(
            f'{name} has a forward of its own that hides the one of its class, so SE would never run; '
            'remove it first (del block.forward), or put SE in before it is set.')
    if not hasattr(block, 'aa') and block.relu.state_dict():  # type: ignore[operator, union-attr]
        raise ValueError(
            f'{name}.relu is a {type(block.relu).__name__}, which has weights; an SE block has it under four names, of '
            'which a plain file lacks three. Expected one without weights, as torchvision has it.')
    for part in ('conv1', _SE_CLASSES[type(block)].last_conv):
        if not hasattr(getattr(block, part), 'out_channels'):
            raise ValueError(
                f'{name}.{part} is a {type(getattr(block, part)).__name__}; expected a convolution, whose channels and '
                'dtype SE takes.')
