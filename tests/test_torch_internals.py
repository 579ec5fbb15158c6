"""Each private name of PyTorch is taken away in turn, as its next release may: everything computes what it did."""
import copy

import pytest
import torch
from helpers import settle_, shake_
from timm.models.resnet import Bottleneck, ResNet
from timm.utils import reparameterize_model
from torch import nn

import timm_se50
from timm_se50 import torch_internals

# The function that has to be careful without it, and what it then says of a module or tensor with nothing special
CAREFUL = {
    '_are_functorch_transforms_active': ('is_transformed', True),
    '_current_level': ('is_transformed', True),
    '_symbolic_trace': ('is_transformed', True),
    '_len_torch_dispatch_stack': ('is_recorded', True),
    '_has_any_global_hook': ('has_global_hooks', True),
    '_len_torch_function_stack': ('has_function_modes', True),
    '_forward_hooks': ('has_call_hooks', True),
    '_forward_pre_hooks': ('has_call_hooks', True),
    '_backward_hooks': ('has_call_hooks', True),
    '_backward_pre_hooks': ('has_call_hooks', True),
    '_functorch': ('is_batched', False),
    '_reorder_convolution_weight': ('has_packed_convolution', False),
    '_convolution_pointwise': ('has_packed_convolution', False),
}
ARGUMENTS = {'has_call_hooks': (nn.Identity(), True), 'is_batched': (torch.ones(1),)}


@pytest.fixture(params=CAREFUL)
def name(request, monkeypatch):
    """A name that torch_internals.py cannot find any more; PyTorch itself, which needs it too, still does."""
    name = request.param
    monkeypatch.setattr(torch_internals, 'getattr', lambda owner, key, *default: (
        default[0] if key == name else getattr(owner, key, *default)), raising=False)
    for looked_up_at_import in {name, name.removeprefix('_')} & vars(torch_internals).keys():
        monkeypatch.setattr(torch_internals, looked_up_at_import, None)
    return name


def test_careful_without_it(name):
    function, says = CAREFUL[name]
    assert getattr(torch_internals, function)(*ARGUMENTS.get(function, ())) is says


def small():
    return settle_(ResNet(Bottleneck, (1, 1, 1, 1), num_classes=3, zero_init_last=False))


def test_all_is_computed_without_it(name):
    """Step 0 to the bit, a step with less memory, the inference form."""
    torch.manual_seed(0)
    plain, x = small(), torch.randn(4, 3, 64, 64)
    model = timm_se50.replace_blocks_(copy.deepcopy(plain))
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))

    modules = shake_(model).double().train()
    model = copy.deepcopy(modules)
    timm_se50.set_memory_efficient(model)
    for m in (modules, model):
        m(x[..., ::2, ::2].double()).square().sum().backward()
    for (key, p), q in zip(modules.named_parameters(), model.parameters()):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-9 * float(p.grad.abs().max()), msg=key)

    with torch.inference_mode():
        expected = modules.float().eval()(x)
        torch.testing.assert_close(
            reparameterize_model(modules)(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.skipif(
    not hasattr(nn.modules.module, '_has_any_global_hook'), reason='an old PyTorch: the plain path of memory_efficient')
def test_all_of_it_is_found_in_this_pytorch():
    """Else the fast paths are lost in silence: a PyTorch that has renamed a name is to be looked at."""
    for name, (function, says) in CAREFUL.items():
        assert not says or not getattr(torch_internals, function)(*ARGUMENTS.get(function, ())), name
    if torch.backends.mkldnn.is_available():
        assert torch_internals.has_packed_convolution()
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda grad: seen.append(torch_internals.is_batched(grad)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True)
    assert seen == [True]
