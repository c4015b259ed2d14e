"""Units of ``mase_popcount`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

from mase.blocks.linear import LinearBlock
from mase.blocks.popcount import PopcountBlock, no_zero
from tests.hw.operators import Unit, linear, parts


def counting(name: str, unit: Unit, zeros: bool) -> Unit:
    """Return the unit that counts in place of one that multiplies; zeros: also where no input is 0."""
    block = unit.block
    assert isinstance(block, LinearBlock)
    zeros = zeros or not no_zero(block.sums.x)
    counted = PopcountBlock(block.sums, block.simd, block.pe, zeros, fifo=block.fifo)
    found = Unit.of(f"popcount_{name}", counted)
    assert all((a.mantissa == b.mantissa).all() for a, b in zip(found.given, block.compute(*found.fed), strict=True))
    return found


def units() -> tuple[Unit, ...]:
    """Return one of each, tails, several tiles, multipliers, parts, sets, results in blocks, inputs that may be 0."""
    one, many = ("binaryu", "binary", "fixed8.2"), ("binaryu", "binaryc", "int6")
    return (
        counting("one", linear(one, (1, 1, 1), (1, 1), 2), False),
        counting("even", linear(one, (2, 6, 5), (3, 2), 3, activation="relu"), False),
        counting("tails", linear(many, (2, 7, 4), (4, 3), 4, rounding="half_up"), False),
        counting("zeros", linear(("ternaryu", "binaryu", "fixed7.1"), (2, 6, 4), (2, 4), 3), False),
        counting("blocks", linear(("int2", "binaryc", "mxint4b2e3"), (1, 5, 4), (5, 2), 5), True),
        counting("parts", parts("count", ("binary", "binaryc", "int6"), (2, 3, 4, 4, 1), (2, 2), 4), True),
        counting("sets", parts("set", ("binaryu", "binary", "ternary"), (2, 2, 4, 6, 3), (2, 1), 3), False),
    )


MUTANTS = (
    ("mase_popcount", "some[i] && negative", "negative", "popcount_zeros", "cycles"),
    ("mase_popcount", "negative[i] == w_word", "negative[i] != w_word", "popcount_even", "cycles"),
    ("mase_popcount", "HasZero ? x[2*i] : 1'b1", "1'b1", "popcount_tails", "cycles"),
    ("mase_popcount", "($signed({count, 1'b0}))", "($signed(count))", "popcount_even", "cycles"),
    ("mase_popcount", " - AccWidth'($signed(all))", "", "popcount_zeros", "cycles"),
    ("mase_popcount", "(open_q ? acc_q : start)", "acc_q", "popcount_parts", "cycles"),
    ("mase_popcount", "open_q <= !done_q[StageAdd-1]", "open_q <= 1'b1", "popcount_sets", "cycles"),
    ("mase_popcount", "(w_addr_q == WAddr'(WWords - 1))", "(w_addr_q == '1)", "popcount_sets", "cycles"),
    ("mase_popcount", "    if (!rst_ni) w_addr_q <= '0;\n    else if", "    if", "popcount_tails", "reset"),
    ("mase_popcount", "take_i     (fire && produce)", "take_i     (fire)", "popcount_even", "slow sink"),
)  # fmt: skip
