"""Work in pieces: however a tensor is cut, and whatever way each piece takes, the result is the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats import base
from mase.formats.base import QuantParams, parse
from mase.formats.chunks import Scratch, chunks
from mase.testing import Data, same

TEXTS = [
    "fixed8.4",
    "fixed30.10",
    "int8",
    "int8c",
    "int8c_fp32",
    "int4g8a",
    "int4g5f",
    "int8p",
    "e4m3",
    "e4m3t",
    "e2m1c",
    "mxint8b8",
    "mxint2b8",
    "mxint8b8e3",
    "mxint4b2x4",
    "mxfp8e4m3b16",
    "mxfp4b8_xrceil",
    "nvfp4b8",
    "bfp6b8",
    "bm6e2b4",
    "log4",
    "bl4b8",
    "binaryc",
    "ternaryc",
    "nf4b16",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("layout", ["plain", "transposed", "strided"])
def test_small_pieces_give_what_one_piece_gives(text: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = parse(text)
    for axis, shape in ((-1, (6, 5, 22)), (0, (13, 9)), (1, (3, 17, 4))):
        x = Data(axis + 5, shape, layout=layout).tensor()
        params = fmt.calibrate(x, axis)
        if "x4" in text and axis == 0:
            continue  # a tile has no axis before the first
        whole = fmt.quantize(x, params)
        assert same(whole, fmt.decode(fmt.encode(x, params), params).to(x.dtype))
        for limit in (1, 7, 64):
            monkeypatch.setattr(base, "CHUNK", limit)
            assert same(fmt.quantize(x, params), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("text", TEXTS)
def test_a_piece_with_odd_values_is_rounded_exactly(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subnormals, the greatest floats and infinity among ordinary rows: the kernels must hand these pieces over."""
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(3))
    x[2] *= 1e-42
    x[5] *= 2.0**126
    x[6, 3] = torch.finfo(torch.float32).max
    x[8] = 0.0
    x[9, 1::2] = 0.0
    fmt = parse(text)
    params = fmt.calibrate(x, 0 if text[4:5] == "c" else -1)
    x[10, 5] = torch.inf
    expected = base.narrowed(fmt.decode(fmt.encode(x, params), params), x.dtype)
    assert same(fmt.quantize(x, params), expected)
    monkeypatch.setattr(base, "CHUNK", 16)
    assert same(fmt.quantize(x, params), expected)


@pytest.mark.parametrize(
    "text", ["mxint8b8", "bfp6b8", "mxfp8e4m3b8", "mxfp4b8_xceil", "e4m3", "fixed8.4", "int8", "log4"]
)
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, -1, -0x7FFFFF])  # quiet, signalling, all ones
def test_no_pattern_of_nan_slips_through_a_kernel(text: str, bits: int) -> None:
    x = torch.ones(4, 64)
    fmt = parse(text)
    params = fmt.calibrate(x)
    x.view(torch.int32)[2, 17] = bits
    with pytest.raises(FormatError, match="NaN at 1 of 256 places"):
        fmt.quantize(x, params)


def test_window_beyond_float32_takes_the_exact_way() -> None:
    fmt = parse("mxint8b4e4")
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64) * 2.0**-140
    params = QuantParams(base=torch.tensor(-145))
    assert same(fmt.quantize(x, params), x)
    assert same(fmt.quantize(x.float(), params), x.float())


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (torch.empty(3, 3), r"int8: out is torch.float32 \(3, 3\); torch.float32 \(3, 4\) in other memory is needed"),
        (torch.empty(3, 4, dtype=torch.float64), "int8: out is torch.float64"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(out: Tensor, text: str) -> None:
    with pytest.raises(FormatError, match=text):
        parse("int8").quantize(torch.ones(3, 4), out=out)


def test_a_result_in_place_or_with_gradient_is_refused() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(FormatError, match="in other memory is needed"):
        parse("int8").quantize(x, out=x)
    with pytest.raises(FormatError, match="quantize with out= has no gradient"):
        parse("int8").quantize(x.clone().requires_grad_(), out=torch.empty(3, 4))


def test_no_gradient_is_asked_under_no_grad() -> None:
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert not parse("int8").quantize(x).requires_grad


def test_views_cover_every_element_once_and_fit() -> None:
    x = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7)
    scale = torch.arange(3).reshape(1, 3, 1, 1)
    for limit in (1, 6, 40, 1000):
        seen = []
        for part, shared in chunks((x, scale), limit):
            assert part.numel() <= limit
            channel = part // 35 % 3
            assert bool((channel == shared).all())
            seen.append(part.flatten())
        assert torch.equal(torch.cat(seen).sort().values, x.flatten())
    assert all(part.shape[-2:] == (5, 7) for (part,) in chunks((x,), 1, whole=2))
    assert list(chunks((torch.empty(0, 4),), 8)) == []


def test_scratch_memory_is_used_again() -> None:
    scratch = Scratch()
    first = scratch.take(0, (8, 4))
    assert scratch.take(0, (4, 4)).data_ptr() == first.data_ptr()
    assert scratch.take(1, (4, 4)).data_ptr() != first.data_ptr()
