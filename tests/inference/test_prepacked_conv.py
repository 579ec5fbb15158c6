"""`PrepackedConv2d` computes what `torch.nn.Conv2d` does, whatever happened since it reordered its weight."""
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from timm_se50.inference.prepacked_conv import PrepackedConv2d


def make(**kwargs):
    torch.manual_seed(0)
    return PrepackedConv2d(32, 64, **{'kernel_size': 1, **kwargs})


def make_input(n=2, size=14, memory_format=torch.channels_last):
    x = torch.randn(n, 32, size, size + 1, generator=torch.Generator().manual_seed(n))
    return x.to(memory_format=memory_format)


plain = nn.Conv2d.forward


def check(conv, x):
    """Against float64, with the error that Conv2d has as measure."""
    exact = plain(copy.deepcopy(conv).double(), x.double())
    own, expected = conv(x), plain(conv, x)
    assert is_packed(conv)
    assert conv._packed.state[0] == x.shape
    assert own.is_contiguous(memory_format=torch.channels_last)
    assert (own - exact).abs().max() <= 4 * (expected - exact).abs().max() + 1e-7 * exact.abs().max()


def is_packed(conv):
    return conv._packed is not None and conv._packed.weight.is_mkldnn


@torch.no_grad()
@pytest.mark.parametrize('settings', [
    dict(), dict(bias=False, stride=2), dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=3, padding=2, dilation=2, groups=4), dict(kernel_size=(1, 7), padding=(0, 3))], ids=str)
def test_computes_the_same_at_every_size(settings):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        conv = make(**settings).to(memory_format=memory_format)
        for n, size in ((1, 7), (8, 7), (1, 56), (1, 7)):
            check(conv, make_input(n, size, memory_format))


@torch.no_grad()
def test_reorders_once_and_for_no_copy():
    conv, x = make(), make_input()
    first, packed = conv(x), conv._packed.weight
    assert torch.equal(conv(x), first)
    assert conv._packed.weight is packed
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert not is_packed(other)
        assert torch.equal(other(x), first)
    assert conv.state_dict().keys() == {'weight', 'bias'}
    assert not is_packed(conv.half())  # back in float32 it may be where it was, of the same version, and another


@torch.no_grad()
@pytest.mark.parametrize('swap', [False, True])
@pytest.mark.parametrize('change_', [
    lambda conv: conv.weight.mul_(2),
    lambda conv: conv.bias.add_(1),
    lambda conv: setattr(conv, 'bias', nn.Parameter(torch.randn(64, 3)[:, 1])),
    lambda conv: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}),
    lambda conv: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}, assign=True),
], ids=['in place', 'bias', 'bias with gaps', 'load', 'assign'])
def test_follows_the_weight(change_, swap, monkeypatch):
    """Where torch swaps tensors as it loads, too."""
    monkeypatch.setattr(torch.__future__, '_swap_module_params_on_conversion', swap)
    conv, x = make(), make_input()
    for _ in range(5):
        check(conv, x)
        change_(conv)
    check(conv, x)


@torch.no_grad()
def test_follows_weights_that_come_and_go():
    """One that is made after another is gone often has its address, and no change of either was counted."""
    conv, x = PrepackedConv2d(32, 32, 1), make_input()
    conv(x)
    for i in range(20):
        weight = torch.randn(32, 32, 1, 1) if i else conv.weight.transpose(0, 1)
        out = torch.func.functional_call(conv, {'weight': weight}, (x,))
        torch.testing.assert_close(out, nn.functional.conv2d(x, weight, conv.bias))
        del weight


@pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated:FutureWarning')  # torch's own, in jvp
@pytest.mark.parametrize('call', [
    lambda conv, f, x: torch.autograd.grad(f(x.requires_grad_()).square().sum(), (x, conv.weight, conv.bias)),
    torch.no_grad()(lambda conv, f, x: (f(x[:0]), f(x[0]))),
    torch.no_grad()(lambda conv, f, x: f(x.to(conv.bfloat16().weight.dtype))),
    torch.no_grad()(torch.autocast('cpu', torch.bfloat16)(lambda conv, f, x: f(x))),
    torch.no_grad()(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)(lambda conv, f, x: f(x))),
    torch.no_grad()(lambda conv, f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]),
    torch.no_grad()(lambda conv, f, x: make_fx(f)(x)(2 * x)),
    # an inference tensor keeps no count of changes
    torch.inference_mode()(lambda conv, f, x: (setattr(conv, 'weight', nn.Parameter(conv.weight.clone())), f(x))[1]),
], ids=['gradient', 'shapes', 'dtype', 'autocast', 'switched off', 'jvp', 'make_fx', 'inference tensor'])
def test_is_plain_where_oneDNNs_operators_do_not_stand_for_it(call):
    conv = make()
    torch.testing.assert_close(
        call(conv, conv, make_input()), call(conv, lambda x: plain(conv, x), make_input()), rtol=1e-6, atol=1e-6)
    assert not is_packed(conv)


@torch.no_grad()
def test_other_channels_are_torchs_to_refuse():
    with pytest.raises(RuntimeError, match=r'expected input.* to have 32 channels, but got 16'):
        make()(make_input()[:, :16])


def test_threads_share_a_module():
    conv = make(kernel_size=3, padding=1)
    inputs = [make_input(n, size) for n, size in ((1, 7), (2, 14), (1, 14), (4, 7))]
    run = torch.no_grad()(lambda i: conv(inputs[i % 4]))
    expected = [run(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(out, expected[i % 4]) for i, out in enumerate(pool.map(run, range(200))))
