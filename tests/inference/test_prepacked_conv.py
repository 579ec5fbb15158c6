"""`PrepackedConv2d` computes what `torch.nn.Conv2d` does, whatever happened since it reordered its weight."""
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from timm_se50.inference.prepacked_conv import PrepackedConv2d

FORMATS = [torch.contiguous_format, torch.channels_last]


def make(**kwargs):
    torch.manual_seed(0)
    return PrepackedConv2d(nn.Conv2d(32, 64, **{'kernel_size': 1, **kwargs}))


def make_input(n=2, size=14, memory_format=torch.channels_last):
    x = torch.randn(n, 32, size, size + 1, generator=torch.Generator().manual_seed(n))
    return x.to(memory_format=memory_format)


def plain(conv, x):
    return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def check(conv, x):
    """Against float64, with the error that Conv2d has as measure."""
    exact = plain(copy.deepcopy(conv).double(), x.double())
    own, expected = conv(x), plain(conv, x)
    assert own.is_contiguous(memory_format=torch.channels_last)
    assert (own - exact).abs().max() <= 4 * (expected - exact).abs().max() + 1e-7 * exact.abs().max()


def is_packed(conv):
    return conv._packed is not None and conv._packed.weight.is_mkldnn


@torch.no_grad()
@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('settings', [
    dict(), dict(bias=False), dict(kernel_size=3, padding=1), dict(kernel_size=3, stride=2, padding=1),
    dict(stride=2), dict(kernel_size=3, padding=2, dilation=2), dict(kernel_size=3, padding=1, groups=4),
    dict(kernel_size=(1, 7), padding=(0, 3)),
], ids=lambda settings: '-'.join(f'{k}={v}' for k, v in settings.items()) or 'default')
def test_computes_the_same(settings, memory_format):
    conv = make(**settings).to(memory_format=memory_format)
    for x in (make_input(memory_format=memory_format), make_input(1, 30, memory_format)):
        check(conv, x)
        assert is_packed(conv)


@torch.no_grad()
def test_other_channels_are_torchs_to_refuse():
    with pytest.raises(RuntimeError, match=r'expected input.* to have 32 channels, but got 16'):
        make()(make_input()[:, :16])


@torch.no_grad()
def test_follows_the_size():
    conv = make(kernel_size=3, padding=1)
    for n, size in ((1, 7), (8, 7), (1, 56), (8, 56), (1, 7)):
        check(conv, make_input(n, size))
        assert conv._packed.input_size == (n, 32, size, size + 1)


@torch.no_grad()
@pytest.mark.parametrize('change_', [
    lambda conv: conv.weight.mul_(2),
    lambda conv: conv.bias.add_(1),
    lambda conv: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}),
    lambda conv: conv.load_state_dict({k: v + 1 for k, v in conv.state_dict().items()}, assign=True),
    lambda conv: setattr(conv, 'weight', nn.Parameter(conv.weight + 1)),
    lambda conv: conv.double().float(),
], ids=['in place', 'bias', 'load', 'assign', 'new', 'cast'])
def test_follows_the_weight(change_):
    conv, x = make(), make_input()
    check(conv, x)
    change_(conv)
    check(conv, x)


@torch.no_grad()
def test_follows_weights_that_come_and_go():
    """One that is made after another is gone often has its address, and no change of either was counted."""
    conv, x, addresses = make(), make_input(), set()
    for i in range(20):
        weight = torch.randn(64, 32, 1, 1, generator=torch.Generator().manual_seed(i))
        addresses.add(weight.data_ptr())
        out = torch.func.functional_call(conv, {'weight': weight}, (x,))
        torch.testing.assert_close(out, nn.functional.conv2d(x, weight, conv.bias))
        del weight
    assert len(addresses) < 20


@torch.no_grad()
def test_loads_where_torch_swaps_tensors():
    conv, x = make(), make_input()
    conv(x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        conv.load_state_dict({k: 2 * v for k, v in conv.state_dict().items()})
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    check(conv, x)


@torch.no_grad()
def test_bias_with_gaps():
    conv, x = make(), make_input()
    conv.bias = nn.Parameter(torch.randn(64, 3)[:, 1])
    check(conv, x)
    assert is_packed(conv)


@torch.no_grad()
def test_reorders_once():
    conv, x = make(), make_input()
    first = conv(x)
    packed = conv._packed.weight
    assert torch.equal(conv(x), first)
    assert conv._packed.weight is packed


@torch.no_grad()
@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'pickle'])
def test_copy_has_no_packed_weight(copied):
    conv, x = make(), make_input()
    conv(x)
    other = copied(conv)
    assert not is_packed(other)
    assert torch.equal(other(x), conv(x))
    assert is_packed(conv)
    assert conv.state_dict().keys() == {'weight', 'bias'}


def test_gradient():
    conv, x = make(kernel_size=3, padding=1), make_input().requires_grad_()
    inputs = (x, conv.weight, conv.bias)
    actual, expected = (torch.autograd.grad(f(x).square().sum(), inputs) for f in (conv, lambda x: plain(conv, x)))
    assert not is_packed(conv)
    assert all(map(torch.equal, actual, expected))


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_not_packed(dtype):
    conv, x = make().to(dtype), make_input().to(dtype)
    assert torch.equal(conv(x), plain(conv, x))
    assert not is_packed(conv)


@torch.no_grad()
def test_autocast_is_not_packed():
    conv, x = make(), make_input()
    with torch.autocast('cpu', torch.bfloat16):
        out = conv(x)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, plain(conv, x))
    assert not is_packed(conv)


@torch.no_grad()
@pytest.mark.parametrize('shape', [(0, 32, 7, 7), (32, 7, 7)], ids=['empty', 'unbatched'])
def test_other_shapes_are_not_packed(shape):
    conv, x = make(), torch.randn(shape)
    assert torch.equal(conv(x), plain(conv, x))
    assert not is_packed(conv)


@torch.no_grad()
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_cast_and_back(dtype):
    """The weight may end where it was, of the same version, and be another."""
    for _ in range(10):
        conv, x = make(), make_input()
        check(conv, x)
        conv.to(dtype)
        assert not is_packed(conv)
        check(conv.float(), x)


@torch.no_grad()
@pytest.mark.filterwarnings('ignore:.torch.jit.script. is deprecated:FutureWarning')  # torch's own, in jvp
@pytest.mark.parametrize('call', [
    lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1],
    lambda f, x: torch.vmap(f)(torch.stack([x, 2 * x])),
    lambda f, x: make_fx(f)(x)(2 * x),
], ids=['jvp', 'vmap', 'make_fx'])
def test_transformed_is_not_packed(call):
    conv, x = make(), make_input()
    conv(x)
    out, expected = call(conv, x), call(lambda x: plain(conv, x), x)
    assert expected.any()
    torch.testing.assert_close(out, expected)


@torch.no_grad()
def test_flops_are_counted():
    conv, x = make(), make_input()
    with FlopCounterMode(display=False) as counter:
        conv(x)
    assert counter.get_total_flops() == 2 * 2 * 14 * 15 * 32 * 64


def test_inference_tensors_are_not_packed():
    with torch.inference_mode():
        conv, x = make(), make_input()
        assert torch.equal(conv(x), plain(conv, x))
        conv.weight.mul_(2)  # of which an inference tensor keeps no count
        assert torch.equal(conv(x), plain(conv, x))
    assert not is_packed(conv)


@torch.no_grad()
def test_switched_off():
    conv, x = make(), make_input()
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):
        assert torch.equal(conv(x), plain(conv, x))
    assert not is_packed(conv)


def test_threads_share_a_module():
    conv = make(kernel_size=3, padding=1)
    inputs = [make_input(n, size) for n, size in ((1, 7), (2, 14), (1, 14), (4, 7))]
    with torch.no_grad():
        expected = [conv(x) for x in inputs]

    def run(i):
        with torch.no_grad():  # which is each thread's own
            return torch.equal(conv(inputs[i % 4]), expected[i % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(200)))
