"""The memory-efficient tail, forward and backward, compiled for a GPU by inductor and Triton on a machine without one.

    python gpu_compiler.py 80 float32 90 bfloat16

prints as JSON, a line for each architecture and dtype, what each of 'ours', timm's 'se' and 'plain' (norm, addition
and ReLU, without SE) becomes: its 'kernels', by name with the size of each one's binary, and 'bytes', what inductor
counts that they read and write. Run as a program, since it stands in for the driver of the GPU, which is all that is
missing: tensors are fake, nothing is launched.
"""
import json
import multiprocessing
import sys
from types import SimpleNamespace
from unittest import mock

import torch
import torch._inductor.config as inductor
import torch._inductor.runtime.triton_heuristics as heuristics
import triton
from timm.layers import SEModule
from torch import nn
from torch._inductor import metrics
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, functionalize, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from triton.backends.compiler import GPUTarget

from timm_se50.memory_efficient.arithmetic import traced_norm_se_add_relu
from timm_se50.squeeze_excite import SEModule as OurSEModule

SHAPE = (8, 256, 40, 40)


class Tail(nn.Module):
    """relu(se(norm(z)) + shortcut), as 'ours', by timm's 'se', or 'plain'."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind, self.norm = kind, nn.BatchNorm2d(SHAPE[1])
        self.se = {'ours': OurSEModule, 'se': SEModule, 'plain': nn.Identity}[kind](SHAPE[1])

    def forward(self, z, shortcut):
        if self.kind == 'ours':
            return traced_norm_se_add_relu(z, shortcut, self.norm, self.se)
        return (self.se(self.norm(z)) + shortcut).relu()


def traced(kind, dtype):
    """Forward and backward as one graph, and its arguments."""
    tail = Tail(kind)
    maps = [torch.randn(SHAPE).to(dtype).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    parameters = {name: p.detach() for name, p in tail.named_parameters()}
    buffers = dict(tail.named_buffers())

    def both(z, shortcut, d_out, parameters, buffers):
        def forward(z, shortcut, parameters):
            new = {name: b.clone() for name, b in buffers.items()}
            return functional_call(tail, {**parameters, **new}, (z, shortcut))
        out, backward = vjp(forward, z, shortcut, parameters)
        return out, *backward(d_out)

    args, spec = tree_flatten((*maps, parameters, buffers))
    flat = functionalize(lambda *args: tree_leaves(both(*tree_unflatten(args, spec))), remove='mutations')
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        return make_fx(flat, decomposition_table=select_decomp_table())(*args), args


def compile_for_gpu(graph, args):
    """Compile a graph traced on the CPU as if its arguments were on a GPU."""
    for node in graph.graph.nodes:
        if node.kwargs.get('device') is not None:
            node.update_kwarg('device', torch.device('cuda', 0))
    graph.recompile()
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        args = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device='cuda:0') for t in args]
    FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*args)
    with V.set_fake_mode(mode), torch._guards.tracing(torch._guards.TracingContext(mode)):
        compile_fx_inner(graph, args)


def stand_in_for_driver(arch: int) -> list:
    """Returns the list that kernels are added to, (name, size) each."""
    torch._C._ensureCUDADeviceGuardSet()
    target = GPUTarget('cuda', arch, 32)
    properties = SimpleNamespace(
        name='fake', type='cuda', index=0, major=arch // 10, minor=arch % 10, cc=arch, multi_processor_count=108,
        warp_size=32, total_memory=80 << 30, max_threads_per_multi_processor=2048, max_threads_per_block=1024,
        regs_per_multiprocessor=65536, shared_memory_per_block=49152, shared_memory_per_block_optin=166912,
        L2_cache_size=40 << 20, gcnArchName='')
    for name, value in {
        'is_available': True, 'current_device': 0, 'device_count': 1, 'get_device_properties': properties,
        'get_device_capability': (arch // 10, arch % 10), '_lazy_init': None, 'synchronize': None, 'set_device': None,
        '_exchange_device': 0, '_maybe_exchange_device': 0, 'get_rng_state': torch.empty(16, dtype=torch.uint8),
        'set_rng_state': None,
    }.items():
        function = mock.Mock(return_value=value)
        mock.patch(f'torch.cuda.{name}', function).start()
        for interface in (
                torch._dynamo.device_interface.CudaInterface, torch._dynamo.device_interface.CudaInterface.Worker):
            if hasattr(interface, name):
                mock.patch.object(interface, name, staticmethod(function)).start()
    mock.patch('torch._inductor.runtime.triton_helpers.set_driver_to_gpu').start()
    driver = mock.Mock()
    driver.get_current_target.return_value = target
    driver.get_active_torch_device.return_value = torch.device('cuda', 0)
    triton.runtime.driver.set_active(driver)

    kernels: list = []
    compile_kernel = triton.compile

    def compile_and_note(*args, **kwargs):
        kernel = compile_kernel(*args, **kwargs)
        assert kernel.metadata.target.arch == arch
        kernels.append((kernel.metadata.name, len(kernel.asm['cubin'])))
        return kernel

    def precompile(self, *args, **kwargs):  # without loading what was compiled, which needs the GPU
        for config in self.configs:
            self._precompile_config(config)

    mock.patch('triton.compile', compile_and_note).start()
    mock.patch.object(heuristics.CachingAutotuner, 'precompile', precompile).start()
    torch._logging.set_logs(inductor_metrics=True)  # else it does not count
    inductor.compile_threads = 1
    inductor.fx_graph_cache = False
    return kernels


def run(arch: str, dtype: str) -> None:
    graphs = {kind: traced(kind, getattr(torch, dtype)) for kind in ('ours', 'se', 'plain')}
    kernels = stand_in_for_driver(int(arch))
    result = {}
    for kind, (graph, args) in graphs.items():
        kernels.clear()
        metrics.reset()
        compile_for_gpu(graph, args)
        result[kind] = {'kernels': list(kernels), 'bytes': metrics.num_bytes_accessed}
    print(json.dumps(result))


if __name__ == '__main__':
    for case in zip(sys.argv[1::2], sys.argv[2::2]):  # a process each, since a driver has one GPU
        process = multiprocessing.get_context('fork').Process(target=run, args=case)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
