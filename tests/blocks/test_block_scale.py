"""Scales of blocks and elements under them: bounds are those of encode, on any integers; what is kept decides alike."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.blocks.block_scale import NEAR, BlockScale, Bounds, check_near
from mase.errors import UnsupportedOp
from mase.formats import Code, QuantParams, parse
from mase.formats.grid import Grid
from mase.testing import module_parameters

TENSORS = (1.0, 2.0**-7, 0.0117, 3.0e-20, 1.7e18, 2.0**-121)


def grid(text: str, tensor: float = 1.0) -> Grid:
    return parse(text).grid(QuantParams(scale=torch.tensor(tensor).double()), "here")


def bounds(tensor: float, step: Fraction) -> Bounds:
    scales = grid("nvfp4b4", tensor).scales
    assert scales is not None
    return Bounds.of(scales, step)


def step_of(tensor: float, finer: int) -> Fraction:
    """Return a power of two so that the least number of the format is about 2**finer integers."""
    return Fraction(2) ** (int(torch.frexp(torch.tensor(tensor * 2.0**-10)).exponent) - finer)


@pytest.mark.parametrize("tensor", TENSORS)
@pytest.mark.parametrize("finer", [-8, 0, 11, 30])
def test_codes_are_those_of_encode_at_every_bound_and_beside_it(tensor: float, finer: int) -> None:
    fmt, step, draws = parse("nvfp4b4"), step_of(tensor, finer), torch.Generator().manual_seed(finer + 9)
    found = bounds(tensor, step)
    edges = [b + d for row in (found.scales, *found.elements) for b in row for d in (-1, 0, 1) if b < 1 << 52]
    sizes = torch.tensor(edges, dtype=torch.float64)
    t = sizes[torch.randint(len(edges), (2000, 8), generator=draws)]
    t[: len(edges) % 2000, 0] = sizes[: len(edges) % 2000]
    t *= torch.where(torch.rand(t.shape, generator=draws) < 0.5, -1.0, 1.0)
    code, params = found.apply(t, grid("nvfp4b4", tensor)), QuantParams(scale=torch.tensor(tensor).double())
    expected = fmt.encode(t * float(step), params)
    assert expected.scale is not None
    assert torch.equal(code.exponent, expected.scale)  # type: ignore[arg-type]  # there are scales
    zero = expected.mantissa % 8 == 0
    assert torch.equal(code.mantissa, torch.where(zero, 0, expected.mantissa))


@given(
    st.lists(st.integers(-(1 << 52), 1 << 52) | st.integers(-300, 300), min_size=1, max_size=9),
    st.sampled_from(TENSORS),
    st.integers(-5, 30),
    st.fractions(Fraction(1, 9), 9),
)
def test_bounds_equal_the_definition(row: list[int], tensor: float, finer: int, real: Fraction) -> None:
    found, target = bounds(tensor, step_of(tensor, finer) * real), grid("nvfp4b4", tensor)
    code = found.apply(torch.tensor([row], dtype=torch.float64), target)
    assert code.exponent is not None
    assert (code.mantissa[0].tolist(), code.exponent[0].tolist()) == found.scalar(row, 4)


def test_a_block_by_hand() -> None:  # the greatest 12 takes the scale 2, under which 5 is 2.5 and ties to 2
    code = bounds(1.0, Fraction(1)).apply(torch.tensor([[12.0, -5.0, 3.0, 0.0, 0.0]]).double(), grid("nvfp4l1b4"))
    assert code.exponent is not None
    assert code.exponent.tolist() == [[0b1000_000, 8]]  # 2, and 2**-6, the least
    assert code.mantissa.tolist() == [[0b0111, 0b1100, 0b0011, 0, 0]]  # 6, -2, 1.5


@pytest.mark.parametrize(("finer", "width"), [(0, 12), (8, 20), (20, 48), (40, 270), (-9, 6)])
def test_what_is_kept_decides_as_all_bits_do(finer: int, width: int) -> None:
    found = bounds(1.0, step_of(1.0, finer))
    kept = found.range(width)
    most = 1 << width - 1
    every = {b for row in (found.scales, *found.elements) for b in row}
    sizes = {b + d for b in every for d in (-1, 0, 1)} | {0, 1, most - 1, most}
    for size in (size for size in sizes if size <= most):
        inside = min(size >> kept.drop, (1 << kept.keep) - 1)
        below = size >> kept.drop + kept.keep > 0 or size % (1 << kept.drop) > 0
        cut = 2 * inside + below if kept.drop else inside
        assert all((size >= bound) == (cut >= kept.cut(bound)) for bound in every)
    assert kept.bits <= 46  # however wide the integers are


def test_memories_hold_what_the_module_reads() -> None:
    target, found = grid("nvfp4l1b4"), bounds(1.0, Fraction(1, 64))
    block = BlockScale(2, 9, 2, 14, -6, target, found)
    images = block.memories()
    assert {*block.sv_params(), *images} == set(module_parameters("mase_block_scale"))
    bits = block.kept.bits
    assert (images["ScaleFile"].depth, images["ScaleFile"].width) == (bits + 1, NEAR * bits + 7)
    assert (images["ElementFile"].depth, images["ElementFile"].width) == (119, 7 * bits)


def test_a_decoder_gives_back_the_values() -> None:
    fmt, x = parse("nvfp4l1b4"), torch.randn(50, 12) * 2.0 ** torch.randint(-9, 9, (50, 1))
    params = fmt.calibrate(x)
    on_chip, code = fmt.grid(params, "here"), fmt.encode(x, params).on_stream()
    real = on_chip.plain.integers(on_chip.decoded(code)) * 2.0**on_chip.unit
    assert torch.equal(real, fmt.decode(code, params))
    assert torch.equal(real, fmt.decode(Code(code.mantissa, scale=code.exponent), params))


def test_a_scale_at_the_ends_of_float32_is_refused_where_bounds_crowd() -> None:
    found = bounds(1.0, Fraction(1))
    crowded = Bounds(found.of_codes, found.step, tuple(range(100, 218)), found.elements)
    with pytest.raises(UnsupportedOp, match="too near the ends of float32"):
        check_near(crowded, "here")
    check_near(found, "here")
