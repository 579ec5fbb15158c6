"""What the benchmarks share: what they ran on, and where their results are kept."""
import json
import os
import platform
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / 'results'


def machine() -> dict[str, Any]:
    """Machine, versions and date, to stand beside every figure; load is of the last minute, in processes."""
    cpu = platform.processor()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cpu = next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), cpu)
    return {
        'date': date.today().isoformat(),
        'cpu': cpu,
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'isa': torch.backends.cpu.get_cpu_capability(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'load': os.getloadavg()[0],
        'python': platform.python_version(),
        'versions': {name: _version(name) for name in ('torch', 'timm', 'onnxruntime', 'openvino')},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a GPU's machine need not have what runs on CPUs
        return None


def peak_bytes(step: Callable[[], Any]) -> int:
    """Bytes of a GPU's memory that a step allocates at most, above what is there before it."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return torch.cuda.max_memory_allocated() - before


def update_json(path: Path, part: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Put one part of the results into a file, with the machine it was measured on; return all parts."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[part] = {**record, 'machine': machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + '\n')
    return results
