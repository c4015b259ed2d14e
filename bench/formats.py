"""Number formats: ``quantize`` on 4096 x 4096 float32, one thread, against ``copy_`` and against other emulators.

Ratios are of the least CPU time of several runs, ours into a result that exists, as ``copy_`` writes into one; what a
fresh result costs, most of it the operating system's pages, stands beside it, also with the huge pages that torch asks
for under ``THP_MEM_ALLOC_ENABLE=1``. The NaN check is part of every time.
torchao and Brevitas are measured in the same run where they are installed (``pip install torchao brevitas``).
"""

from __future__ import annotations

import ctypes
import importlib
import json
import logging
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bench.common import Figure, main
from mase.formats import parse

ROOT = Path(__file__).resolve().parent.parent
SIZE = 4096
BARS: Mapping[str, float] = {  # times copy_
    "mxint8": 5,
    "bfp8": 5,
    "mxfp8e4m3": 8,
    "mxfp8e5m2": 8,
    "mxfp4": 8,
    "fixed8.4": 3,
    "ufixed8.4": 3,
    "int8": 3,
    "int8p": 3,
}
OTHERS = (
    "int8c",
    "int8_fp32",
    "int4g128",
    "int4g32a",
    "mxint4b16",
    "mxfp6e2m3",
    "nvfp4",
    "bm8e4",
    "e4m3",
    "log4",
    "nf4",
    "ternary",
)
EXTRA_MEMORY = 0.25  # of the tensor

# Tools without a wheel, in multiples of copy_: run once from their sources with torch 2.13.0 on the CPU, one thread of
# an AMD EPYC (copy_ 2.9 ms); least CPU time of two runs after one to warm up.
QUOTED: Mapping[
    str, tuple[str, float, float]
] = {  # name: our counterpart, their time, how many times faster we must be
    "microxcaling_int8": ("mxint8", 190, 15),
    "microxcaling_fp8_e4m3": ("mxfp8e4m3", 319, 15),
    "microxcaling_fp4_e2m1": ("mxfp4", 301, 15),
    "mase_integer": ("fixed8.4", 34, 10),
    "mase_block_fp": ("bfp8", 287, 10),
    "mase_mxint": ("mxint8", 198, 10),
    "mase_mxfp_e4m3": ("mxfp8e4m3", 755, 10),
}


def least_cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time of one call after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def peak_growth(work: Callable[[], object]) -> float:
    """Return by how many bytes the resident memory of this process rises while ``work`` runs (Linux, glibc)."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(field: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    ctypes.CDLL(None).malloc_trim(0)  # memory kept for reuse would hide what is taken
    clear.write_text("5")  # resets the peak
    start = read("VmRSS")
    work()
    return max(0, read("VmHWM") - start)


def label(text: str) -> str:
    """Return a text form as part of a figure's name."""
    return text.replace(".", "_")


def ours(x: Tensor, out: Tensor, copy: float) -> tuple[list[Figure], dict[str, float]]:
    """Return the figures of our formats, and the multiples of ``copy`` by text form."""
    figures, ratios = [], {}
    for text in (*BARS, *OTHERS):
        fmt = parse(text)
        params = fmt.calibrate(x)
        seconds = least_cpu_seconds(lambda: fmt.quantize(x, params, out=out), 9 if text in BARS else 2)  # noqa: B023
        ratios[text] = seconds / copy
        figures.append(Figure(f"formats_{label(text)}_time", ratios[text], "x copy_", at_most=BARS.get(text)))
    for text in BARS:
        fmt = parse(text)
        params = fmt.calibrate(x)
        growth = peak_growth(lambda: fmt.quantize(x, params, out=out)) / (x.numel() * x.element_size())  # noqa: B023
        figures.append(Figure(f"formats_{label(text)}_extra_memory", growth, "x tensor", at_most=EXTRA_MEMORY))
    fmt = parse("int8")
    figures.append(
        Figure("formats_int8_calibrate_time", least_cpu_seconds(lambda: fmt.calibrate(x), 5) / copy, "x copy_")
    )
    return figures, ratios


def torchao_peers(x: Tensor) -> dict[str, tuple[str, Callable[[], object]]]:
    """Return what torchao offers, each with our counterpart; nothing where it is not installed."""
    logging.disable(logging.WARNING)  # what torchao says about torch while it is imported
    try:
        config = importlib.import_module("torchao.prototype.mx_formats.config")
        mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor")
    except ImportError:
        return {}
    finally:
        logging.disable(logging.NOTSET)

    def there_and_back(element: torch.dtype) -> object:
        return mx.MXTensor.to_mx(x, element, 32, config.ScaleCalculationMode.FLOOR).dequantize(torch.float32)

    return {
        "torchao_mxfp8_e4m3": ("mxfp8e4m3", lambda: there_and_back(torch.float8_e4m3fn)),
        "torchao_mxfp4": ("mxfp4", lambda: there_and_back(torch.float4_e2m1fn_x2)),
    }


def brevitas_peers() -> dict[str, tuple[str, Callable[[], object]]]:
    """Return what Brevitas offers, each with our counterpart; nothing where it is not installed."""
    try:
        layer = importlib.import_module("brevitas.nn").QuantLinear
        integer = importlib.import_module("brevitas.quant")
        mx = importlib.import_module("brevitas.quant.experimental.mx_quant_ocp")
    except ImportError:
        return {}
    quantizers = {
        "brevitas_mxint8": ("mxint8", mx.MXInt8Weight),
        "brevitas_mxfp8_e4m3": ("mxfp8e4m3", mx.MXFloat8e4m3Weight),
        "brevitas_int8": ("int8", integer.Int8WeightPerTensorFloat),
    }
    return {
        name: (text, layer(SIZE, SIZE, bias=False, weight_quant=quantizer).quant_weight)
        for name, (text, quantizer) in quantizers.items()
    }


def peers(x: Tensor, ratios: Mapping[str, float], copy: float) -> list[Figure]:
    """Return how many times faster we are than each peer."""
    figures = [
        Figure(f"formats_speedup_over_{name}_quoted", theirs / ratios[text], "x", at_least=bar)
        for name, (text, theirs, bar) in QUOTED.items()
    ]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # theirs
        for name, (text, work) in (torchao_peers(x) | brevitas_peers()).items():
            theirs = least_cpu_seconds(work, 2) / copy
            figures.append(Figure(f"formats_speedup_over_{name}", theirs / ratios[text], "x"))
    return figures


def tensors() -> tuple[Tensor, Tensor, float]:
    """Return normal numbers, memory for a result, and the CPU seconds of a copy from one to the other."""
    x = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    return x, out, least_cpu_seconds(lambda: out.copy_(x), 25)


def fresh() -> dict[str, float]:
    """Return the times of ``clone`` and of ``quantize`` without a result to write into, in multiples of ``copy_``."""
    torch.set_num_threads(1)
    x, _, copy = tensors()
    ratios = {"clone": least_cpu_seconds(x.clone, 5) / copy}
    for text in ("mxint8", "mxfp4", "fixed8.4"):
        fmt = parse(text)
        params = fmt.calibrate(x)
        ratios[text] = least_cpu_seconds(lambda: fmt.quantize(x, params), 5) / copy  # noqa: B023
    return ratios


def fresh_with_huge_pages() -> dict[str, float]:
    """Return the same from a process of its own, in which torch asks for huge pages."""
    command = [sys.executable, "-c", "import json; from bench.formats import fresh; print(json.dumps(fresh()))"]
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    ratios: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return ratios


def measure() -> list[Figure]:
    """Measure everything on one tensor of normal numbers."""
    x, out, copy = tensors()
    figures, ratios = ours(x, out, copy)
    pages = {"": fresh(), "_huge_pages": fresh_with_huge_pages()}
    return [
        Figure("formats_copy_time", 1000 * copy, "ms"),
        *figures,
        *(
            Figure(f"formats_{label(text)}_fresh{kind}_time", ratio, "x copy_")
            for kind, times in pages.items()
            for text, ratio in times.items()
        ),
        *peers(x, ratios, copy),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
