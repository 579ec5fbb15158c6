"""What runs a model on a batch: PyTorch, its compiler, onnxruntime, OpenVINO; the last two on a CPU."""
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['ENGINES', 'make_run', 'openvino_settings']

Run = Callable[[], Any]


def make_run(engine: str, model: nn.Module, x: Tensor) -> Run:
    """A function that runs a model in eval mode on a batch, in float32 and with as many threads as PyTorch has.

    Args:
        engine: A key of `ENGINES`.
        model: The model.
        x: The batch; the function is for this size only.

    Raises:
        ValueError: The engine is not installed, or the batch is not on a CPU and the engine needs it there.
    """
    if x.device.type != 'cpu' and engine not in ('eager', 'compile'):
        raise ValueError(f'engine={engine!r}: runs on cpu. Expected device=\'cpu\', not {x.device.type!r}.')
    try:
        with torch.no_grad():
            return ENGINES[engine](model, x)
    except ImportError as e:
        extra = 'openvino' if engine == 'openvino' else 'onnx'
        raise ValueError(f"engine={engine!r}: {e}. pip install 'timm-se50[{extra}]'") from e


def _eager(model: nn.Module, x: Tensor) -> Run:
    @torch.inference_mode()
    def run():
        out = model(x)
        if x.device.type != 'cpu':
            torch.get_device_module(x.device).synchronize()
        return out
    return run


def _compile(model: nn.Module, x: Tensor) -> Run:
    # Freezing makes the weights constants, and needs gradients to be off when it compiles
    compiled: Any = torch.compile(model, dynamic=False, options={'freezing': True})
    return _eager(compiled, x)


def _onnxruntime(model: nn.Module, x: Tensor) -> Run:
    import onnxruntime
    x = x.contiguous()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait by spinning take the processor from what runs next
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'model.onnx')
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(model: nn.Module, x: Tensor) -> Run:
    import openvino
    x = x.contiguous()
    converted = openvino.convert_model(torch.export.export(model, (x,)))
    request = openvino.compile_model(converted, 'CPU', openvino_settings()).create_infer_request()
    return lambda: request.infer([x.numpy()], share_inputs=True)[0]


def openvino_settings() -> dict[str, Any]:
    """float32, as fast as can be for one batch, with as many threads as PyTorch has."""
    return {
        'INFERENCE_NUM_THREADS': torch.get_num_threads(), 'PERFORMANCE_HINT': 'LATENCY',
        'INFERENCE_PRECISION_HINT': 'f32'}  # else bfloat16 where the processor has it


ENGINES: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    'eager': _eager, 'compile': _compile, 'onnxruntime': _onnxruntime, 'openvino': _openvino}
