"""Units of ``mase_block_scale`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

from fractions import Fraction

import torch

from mase.blocks.block_scale import BlockScale, Bounds
from mase.formats import Code, QuantParams, parse
from tests.hw.operators import SAMPLES, Unit


def scaled(
    text: str, shape: tuple[int, int, int], width: int, unit: int, fifo: int, tensor: float = 1.0, real: float = 1.0
) -> Unit:
    """Return a block of so many rows, columns and lanes, fed with integers at and around bounds, and with their ends.

    Args:
        unit: exponent of the integers' 1. tensor: scale of the tensor. real: of the integers.
    """
    rows, cols, lanes = shape
    grid = parse(text).grid(QuantParams(scale=torch.tensor(tensor).double()), "unit")
    assert grid.scales is not None
    bounds = Bounds.of(grid.scales, Fraction(real) * Fraction(2) ** unit)
    block = BlockScale(rows, cols, lanes, width, unit, grid, bounds, fifo=fifo)
    most = 1 << width - 1
    bounded = [*bounds.scales * 4, *(bound for row in bounds.elements for bound in row)]
    near = [bound + d for bound in bounded for d in (-1, 0, 1) if bound < most - 1]
    draws = torch.Generator().manual_seed(width)
    count = SAMPLES * rows * cols
    at = torch.tensor([*near, 0, 1, most - 1, most - 1])
    wide = (torch.rand(count, dtype=torch.float64, generator=draws) * most).long()
    some = wide >> torch.randint(0, width, (count,), generator=draws)
    picked = at[torch.randint(len(at), (count,), generator=draws)]
    sizes = torch.where(torch.rand(count, generator=draws) < 0.6, picked, some)
    fed = torch.where(torch.rand(count, generator=draws) < 0.5, -sizes, sizes).reshape(SAMPLES, rows, cols)
    fed[0, 0, -1] = -most
    fed[-1, -1] = 0
    code = Code(fed)
    scope = "_".join(map(str, ("scaled", text, *shape, width, fifo)))
    return Unit(scope, block, (code,), block.compute(code))


def units() -> tuple[Unit, ...]:
    """Return blocks in several beats, in one, several in one; tails; integers cut below and above; real scales."""
    return (
        scaled("nvfp4b4", (2, 13, 2), 12, -4, 3, 2.0**-3),
        scaled("nvfp4b4", (3, 41, 8), 8, -2, 2, 0.0117),
        scaled("nvfp4l1b8", (2, 16, 8), 14, -6, 4),
        scaled("nvfp4b16", (1, 37, 4), 20, -9, 6, 0.3, real=0.07),
        scaled("nvfp4l1b2", (2, 7, 1), 16, -6, 2),
        scaled("nvfp4l1b1", (4, 43, 4), 9, -2, 3),
        scaled("nvfp4l1b1", (2, 60, 4), 48, -40, 3),
        scaled("nvfp4l1b4", (2, 10, 4), 48, -40, 3),
        scaled("nvfp4b2", (2, 6, 2), 44, -30, 8, 0.02),
        scaled("nvfp4l1b4", (1, 4, 4), 6, -20, 2),  # no bound is reached but those of elements
        scaled("nvfp4l1b2", (1, 4, 2), 5, 6, 2),  # one step is many scales
    )


MUTANTS = (
    ("mase_block_scale", "(first || now > past) ? now : past", "(first || now < past) ? now : past",
     "scaled_nvfp4b4_2_13_2", "cycles"),
    ("mase_block_scale", "(first || now > past)", "(now > past)", "scaled_nvfp4b4_2_13_2", "cycles"),
    ("mase_block_scale", "top_q[bank] <= gathered", "top_q[!bank] <= gathered", "scaled_nvfp4b4_2_13_2", "cycles"),
    ("mase_block_scale", "lead = LeadBits'(i + 1);", "lead = LeadBits'(i);", "scaled_nvfp4b4_2_13_2", "cycles"),
    ("mase_block_scale", "number_q > rank", "number_q >= rank", "scaled_nvfp4l1b1_4_43_4", "cycles"),
    ("mase_block_scale", "late[L*Bits +: Bits] > bounds", "late[L*Bits +: Bits] >= bounds",
     "scaled_nvfp4b4_3_41_8", "cycles"),
    ("mase_block_scale", "late_signs[L] && steps != '0", "late_signs[L]", "scaled_nvfp4l1b2_2_7_1", "cycles"),
    ("mase_block_scale", "(beyond && e >= Inside) ? '0 :", "", "scaled_nvfp4l1b1_4_43_4", "cycles"),
    ("mase_block_scale", "(beyond && e >= Inside)", "(e >= Inside)", "scaled_nvfp4l1b1_4_43_4", "cycles"),
    ("mase_block_scale", "above || size[Drop-1:0] != '0", "above", "scaled_nvfp4l1b1_2_60_4", "cycles"),
    ("mase_block_scale", "above ? '1 : size", "size", "scaled_nvfp4l1b1_2_60_4", "cycles"),
    ("mase_block_scale", "    if (!rst_ni) valid_q <= '0;\n    else valid_q", "    valid_q", "scaled_nvfp4b4_2_13_2",
     "reset"),
    ("mase_block_scale", ".Cycles(Halvings + 2)) u_late", ".Cycles(Halvings + 1)) u_late",
     "scaled_nvfp4b4_2_13_2", "cycles"),
)  # fmt: skip
