"""One rounding: the vectorised one on every carrier equals the definition on Python integers."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mase.dataflow.rounding import MODES, MULT_BITS, Rounding, dyadic
from mase.errors import UnsupportedOp

CARRIERS = {torch.float32: 24, torch.float64: 53, torch.int64: 61}  # dtype -> bits of the integers that it may hold
WIDTHS = (1, 2, 4, 8, 16, 24, 25, 32)  # of the result


def defined(t: int, shift: int, mode: str) -> int:
    """Return round(t / 2**shift) in exact fractions."""
    y = Fraction(t) / Fraction(2) ** shift
    down = floor(y)
    rest = y - down
    if mode == "trunc":
        return down
    if rest == Fraction(1, 2):
        return down + 1 if mode == "half_up" else down + down % 2
    return down + (rest > Fraction(1, 2))


def bounds(width: int, signed: bool) -> tuple[int, int]:
    return (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)


@given(
    st.integers(-(1 << 60), 1 << 60),
    st.integers(-70, 70),
    st.sampled_from(MODES),
    st.sampled_from(WIDTHS),
    st.booleans(),
)
def test_scalar_is_the_definition(t: int, shift: int, mode: str, width: int, signed: bool) -> None:
    low, high = bounds(width, signed)
    expected = min(max(defined(t, shift, mode), low), high)
    assert Rounding(shift, low, high, mode).scalar(t) == expected


@pytest.mark.parametrize("dtype", CARRIERS)
@given(
    data=st.data(),
    shift=st.integers(-200, 200),
    mode=st.sampled_from(MODES),
    width=st.sampled_from(WIDTHS),
    signed=st.booleans(),
)
def test_every_carrier_gives_what_the_scalar_gives(
    dtype: torch.dtype, data: st.DataObject, shift: int, mode: str, width: int, signed: bool
) -> None:
    most = (1 << CARRIERS[dtype]) - 1
    ends = st.sampled_from((-most, -most + 1, -1, 0, 1, most - 1, most))
    values = data.draw(st.lists(st.integers(-most, most) | ends | near_ties(shift, most), min_size=1, max_size=6))
    check(dtype, values, Rounding(shift, *bounds(width, signed), mode))


def near_ties(shift: int, most: int) -> st.SearchStrategy[int]:
    """Return integers on a tie, or one beside it."""
    if not 1 <= shift < most.bit_length():
        return st.just(0)
    half = 1 << shift - 1
    odd = st.integers(-(most // (2 * half)), most // (2 * half) - 1).map(lambda k: (2 * k + 1) * half)
    return st.tuples(odd, st.sampled_from((-1, 0, 1))).map(lambda pair: max(-most, min(most, sum(pair))))


def check(dtype: torch.dtype, values: list[int], rounding: Rounding) -> None:
    found = rounding.apply(torch.tensor(values, dtype=torch.int64).to(dtype)).to(torch.int64).tolist()
    assert found == [rounding.scalar(t) for t in values], (values, rounding)


# Found by search: inputs where a careless carrier gives something else.
@pytest.mark.parametrize(
    ("dtype", "t", "shift", "mode", "width"),
    [
        (torch.float32, -1, 200, "trunc", 8),  # 2**-200 is 0 in float32, and 0 rounds to 0 instead of -1
        (torch.float32, 0, -200, "even", 8),  # 2**200 is infinity there, and 0 times that is not a number
        (torch.float32, 255 * 255, -30, "even", 32),  # the bound 2**31 - 1 is 2**31 there
        (torch.float32, (1 << 23) + 1, 0, "half_up", 32),  # adding a half rounds on its own
        (torch.float32, (1 << 24) - 1, 25, "half_up", 8),  # 0.5 - 2**-25 plus a half is 1
        (torch.float64, (1 << 53) - 1, 54, "half_up", 8),  # likewise
        (torch.float64, -(1 << 53) + 1, 1, "half_up", 32),
    ],
)
def test_border_inputs(dtype: torch.dtype, t: int, shift: int, mode: str, width: int) -> None:
    check(dtype, [t, -t], Rounding(shift, *bounds(width, True), mode))


@pytest.mark.parametrize("shift", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
def test_all_inputs_of_ten_bits(shift: int, mode: str) -> None:
    values = list(range(-512, 512))
    for dtype in CARRIERS:
        check(dtype, values, Rounding(shift, -8, 7, mode))


def test_ties_by_hand() -> None:
    ties = [-3, -1, 1, 3, 5]  # -1.5, -0.5, 0.5, 1.5, 2.5
    expected = {"even": [-2, 0, 0, 2, 2], "half_up": [-1, 0, 1, 2, 3], "trunc": [-2, -1, 0, 1, 2]}
    for mode in MODES:
        assert Rounding(1, -8, 7, mode).apply(torch.tensor(ties, dtype=torch.float32)).tolist() == expected[mode]


def test_relu_and_saturation_are_bounds() -> None:
    relu = Rounding(2, 0, 7)
    assert relu.apply(torch.tensor([-100.0, -3.0, 3.0, 100.0])).tolist() == [0.0, 0.0, 1.0, 7.0]


@given(st.lists(st.floats(2.0**-30, 2.0**30), min_size=1, max_size=8))
@example([1.0 - 2.0**-20])  # its 16-bit multiplier would round up to 2**16
def test_dyadic_is_within_half_a_unit_of_its_ratio(ratios: list[float]) -> None:
    ratio = torch.tensor(ratios, dtype=torch.float64)
    if float(ratio.max() / ratio.min()) > 2.0 ** (MULT_BITS - 1):
        return
    m, k, _ = dyadic(ratio, "here")
    assert 1 << MULT_BITS - 1 <= int(m.max()) < 1 << MULT_BITS
    for value, multiplier in zip(ratios, m.tolist(), strict=True):
        assert abs(Fraction(value) * Fraction(2) ** k - multiplier) <= Fraction(1, 2)


def test_dyadic_shares_one_shift_and_warns_of_coarse_channels() -> None:
    m, k, notes = dyadic(torch.tensor([1.0, 2.0**-9], dtype=torch.float64), "node 'a'")
    assert (m.tolist(), k) == ([1 << 15, 1 << 6], 15)
    assert len(notes) == 1
    assert "1 channel multipliers are below 2**8" in notes[0]


def test_dyadic_refuses_a_channel_that_would_vanish() -> None:
    with pytest.raises(UnsupportedOp, match=r"node 'a': the scale of channel 1 is over 2\*\*16 times below"):
        dyadic(torch.tensor([1.0, 2.0**-18], dtype=torch.float64), "node 'a'")
