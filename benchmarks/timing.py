"""The loop of the benchmarks: runs in turn, compared within a round; and what runs a model: PyTorch, its compiler,
onnxruntime, OpenVINO.
"""
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

Run = Callable[[], Any]


def interleave(
        runs: Mapping[str, Run],
        rounds: int,
        warmup: int = 2,
        clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run in each round. A round has every run once, so that what slows the machine slows them all.

    Their order is another in every round: what a run leaves behind, such as threads that still spin, meets others.
    On a machine that others use as well, `time.process_time` and one thread leave out the time that others had.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), unit='round', ncols=100, delay=2):
        for name in random.sample(list(runs), len(runs)):
            start = clock()
            runs[name]()
            times[name].append(clock() - start)
    return times


def median_ratio(of: list[float], to: list[float]) -> float:
    """Median over the rounds of the ratio of two runs within a round."""
    return statistics.median(a / b for a, b in zip(of, to))


@torch.no_grad()
def make_run(engine: str, model: nn.Module, x: Tensor) -> Run:
    """A function that runs a model in eval mode on a batch of this size, in float32 and on a CPU, with as many threads
    as PyTorch has.

    Args:
        engine: A key of `ENGINES`.
        model: The model.
        x: The batch.
    """
    return ENGINES[engine](model, x)


def _eager(model: nn.Module, x: Tensor) -> Run:
    return torch.inference_mode()(lambda: model(x))


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
