"""Scales of blocks and elements under them: bounds are those of encode, on any integers; what is kept decides alike."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.blocks.block_scale import NEAR, BlockScale, Bounds
from mase.dataflow.work import comparison
from mase.formats import Code, QuantParams, parse
from mase.formats.grid import Grid
from mase.testing import module_parameters

TENSORS = (1.0, 2.0**-7, 0.0117, 3.0e-20, 1.7e18, 2.0**-121)


def grid(text: str, tensor: float = 1.0) -> Grid:
    scale = torch.tensor(tensor, dtype=torch.float32).double()
    return parse(text).grid(QuantParams(scale=scale), "here")


def bounds(tensor: float, step: Fraction) -> Bounds:
    scales = grid("nvfp4b4", tensor).scales
    assert scales is not None
    return Bounds.of(scales, step)


def step_of(tensor: float, finer: int) -> Fraction:
    """Return a power of two so that the least number of the format is about 2**finer integers."""
    return Fraction(2) ** (int(torch.frexp(torch.tensor(tensor * 2.0**-10)).exponent) - finer)


def beside_bounds(found: Bounds) -> list[list[int]]:
    """Return blocks: for each scale its least, greatest and middle maximum, with all bounds of elements, and +- 1."""
    tops = [1, *found.scales, 2 * found.scales[-1]]
    blocks = []
    for row, top, above in zip(found.elements, tops[:-1], tops[1:], strict=True):
        for most in {top, (top + above) // 2, above - 1} if top < above else ():
            sizes = (bound + d for bound in row for d in (-1, 0, 1))
            blocks += [[most, size, -size, 0] for size in sizes if 0 <= size <= most < 1 << 52]
    return blocks


@pytest.mark.parametrize("tensor", [*TENSORS, 0.3, 1.26e35])
@pytest.mark.parametrize("finer", [-8, 0, 11, 30])
def test_codes_are_those_of_encode_at_every_bound_and_beside_it(tensor: float, finer: int) -> None:
    fmt, step, found = parse("nvfp4b4"), step_of(tensor, finer), bounds(tensor, step_of(tensor, finer))
    t = torch.tensor(beside_bounds(found), dtype=torch.float64)
    params = QuantParams(scale=torch.tensor(tensor, dtype=torch.float32).double())
    code, expected = found.apply(t, grid("nvfp4b4", tensor)), fmt.encode(t * float(step), params)
    assert expected.scale is not None
    assert torch.equal(code.exponent, expected.scale)  # type: ignore[arg-type]  # there are scales
    if finer == 11:  # integers finer than all bounds, and no greater than float64 holds
        assert len(code.exponent.unique()) == len(found.elements)  # type: ignore[union-attr]  # likewise
        assert len(t) > 119 * 7 * 3 * 2
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


@pytest.mark.parametrize(
    ("finer", "width", "tensor", "real"),
    [
        *((finer, width, 1.0, 1.0) for finer, width in ((0, 12), (8, 20), (20, 48), (40, 270), (-9, 6))),
        *((0, 12, 0.0117, 1.0), (20, 48, 0.0117, 1.0), (8, 20, 2.0**-7, 0.07)),
    ],
)
def test_what_is_kept_decides_as_all_bits_do(finer: int, width: int, tensor: float, real: float) -> None:
    found = bounds(tensor, step_of(tensor, finer) * Fraction(real))
    kept = found.range(width)
    most = 1 << width - 1
    every = {b for row in (found.scales, *found.elements) for b in row}
    sizes = {b + d for b in every for d in (-1, 0, 1)} | {0, 1, most - 1, most}
    for size in (size for size in sizes if size <= most):
        inside = min(size >> kept.drop, (1 << kept.keep) - 1)
        below = size >> kept.drop + kept.keep > 0 or size % (1 << kept.drop) > 0
        cut = 2 * inside + below if kept.drop else inside
        assert all((size >= bound) == (cut >= kept.cut(bound)) for bound in every)
    if tensor == real == 1.0:
        assert kept.bits <= 46  # however wide the integers are


@pytest.mark.parametrize(("tensor", "real", "bits"), [(1.0, 1.0, 46), (0.0117, 1.0, 52), (1.0, 0.07, 52)])
def test_where_a_scale_is_not_a_power_of_two_all_bits_below_the_greatest_bound_decide(
    tensor: float, real: float, bits: int
) -> None:
    found = bounds(tensor, Fraction(2) ** -40 * Fraction(real))
    kept = found.range(53)
    assert kept.bits <= bits
    assert (kept.drop > 0) == (tensor == real == 1.0)


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


def test_comparators_are_priced_as_comparisons() -> None:
    block = BlockScale(2, 12, 2, 14, -6, grid("nvfp4l1b4"), bounds(1.0, Fraction(1, 64)))
    bits, adders = block.kept.bits, block.work().adders
    compared = {int(count) for count, size in adders if int(size) == comparison(bits)}
    assert compared == {2, NEAR, 2 * 7}  # the greatest of a beat and of a block, bounds of scales, those of elements
    assert all(int(size) != bits for _, size in adders)
