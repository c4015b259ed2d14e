"""The compiled path gives the same bits: checked on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

from mase.formats.base import COMPILE_FROM, compiled, parse
from mase.testing import Data, same

TEXTS = [
    "fixed8.4",
    "int8",
    "int8c_fp32",
    "int4g32a",
    "e4m3",
    "e4m3t",
    "mxint8",
    "mxint8b16e4",
    "mxfp8e4m3",
    "mxfp4_xrceil",
    "nvfp4",
    "bfp6",
    "bm6e2",
    "log4",
    "bl4",
    "binaryc",
    "ternary",
    "nf4",
]


@pytest.fixture(autouse=True)
def _own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch's compiler choose its instructions: told to use none, it writes C++ that does not compile."""
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("text", TEXTS)
def test_compiled_equals_eager_bit_for_bit(text: str) -> None:
    fmt = parse(text)
    for seed, shape in ((0, (64, 128)), (1, (32, 192))):  # the second must not compile to something else
        x = Data(seed, shape, torch.float64).tensor()
        params = fmt.calibrate(x, 0 if text[4:5] == "c" else -1)
        for source, _, local in fmt._pieces(x, torch.empty_like(x), params, x.numel()):
            assert same(compiled(fmt)(source, local), fmt._exact(source, local))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("count", [COMPILE_FROM // 2, COMPILE_FROM])  # eager, compiled
def test_gpu_equals_cpu_bit_for_bit(text: str, count: int) -> None:
    fmt = parse(text)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x = Data(0, (count // 128, 128), dtype).tensor()
        params = fmt.calibrate(x, 0 if text[4:5] == "c" else -1)
        assert same(fmt.quantize(x.cuda(), params).cpu(), fmt.quantize(x, params))
        on_gpu = fmt.calibrate(x.cuda(), 0 if text[4:5] == "c" else -1)
        code, there = fmt.encode(x, params), fmt.encode(x.cuda(), on_gpu)
        assert torch.equal(there.mantissa.cpu(), code.mantissa)
