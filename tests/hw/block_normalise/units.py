"""Units of ``mase_block_normalise`` for more rules and elements, for the bench of all blocks, and mutants."""

from __future__ import annotations

import torch

from mase.blocks.block_normalise import BlockNormalise
from mase.formats import Code, QuantParams, parse
from tests.hw.operators import SAMPLES, Unit, normalise_to

WIDTH = 8


def every(text: str, cols: int, lanes: int, unit: int, fifo: int) -> Unit:
    """Return a normaliser that is fed all integers of a width, one in each block, beside smaller ones."""
    grid = parse(text).grid(QuantParams(base=torch.tensor(-3)), "unit")
    blocks = cols // grid.block
    rows = -(-(1 << WIDTH) // (SAMPLES * blocks))
    low = -(1 << WIDTH - 1)
    tops = (torch.arange(SAMPLES * rows * blocks) + low).clamp(max=-low - 1)
    fed = torch.stack([tops >> i for i in range(grid.block)], -1)
    places = torch.randint(grid.block, (len(tops), 1), generator=torch.Generator().manual_seed(3))
    fed = fed.gather(1, (places + torch.arange(grid.block)) % grid.block)  # the greatest is anywhere in its block
    code = Code(fed.reshape(SAMPLES, rows, cols))
    block = BlockNormalise(rows, cols, lanes, WIDTH, unit, grid, fifo=fifo)
    return Unit(f"normalise_all_{text}_{cols}_{lanes}_{fifo}", block, (code,), block.compute(code))


def units() -> tuple[Unit, ...]:
    """Return each rule of the exponent at one digit and at several, and blocks of powers of two."""
    return (
        every("mxfp4b2_xeven", 8, 2, -1, 3),
        every("mxfp4b4_xrceil", 16, 8, 1, 2),
        every("mxfp8e4m3b8_xrceil", 16, 4, 2, 4),
        every("mxfp8e5m2b1_xeven", 6, 3, 3, 5),
        every("mxfp6e2m3b4_xrceil", 8, 1, 0, 2),
        every("bl4b4s3", 8, 2, -4, 3),
        normalise_to("mxfp4b2_xrceil", 9, 2, -5, 3),
        normalise_to("bl3b2", 9, 4, -3, 4),
        normalise_to("bl6b4s4", 11, 4, -11, 2),
    )


MUTANTS = (
    ("mase_block_normalise", "begins & (size << k)", "begins | (size << k)", "normalise_all_mxfp4b2_xeven", "cycles"),
    ("mase_block_normalise", "k <= RiseOnes", "k < RiseOnes", "normalise_all_mxfp4b4_xrceil", "cycles"),
    ("mase_block_normalise", "<< 1) << RiseOnes", "<< 1)", "normalise_all_mxfp8e4m3b8_xrceil", "cycles"),
    ("mase_block_normalise", "begins & behind;", "begins;", "normalise_all_mxfp6e2m3b4_xrceil", "cycles"),
    ("mase_block_normalise", "all = all | odd[i*InWidth +: InWidth]", "all = odd[i*InWidth +: InWidth]",
     "normalise_all_bl4b4s3", "cycles"),
    ("mase_block_normalise", "above_or_q[fill_bank] <= above", "above_or_q[!fill_bank] <= above",
     "normalise_all_bl4b4s3", "cycles"),
    ("mase_block_normalise", ".credit_i    (credit)", ".credit_i    (1'b1)", "normalise_all_mxfp4b2_xeven",
     "slow sink"),
)  # fmt: skip
