"""Units of ``mase_sign`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

import torch

from mase.blocks.sign import Sign
from mase.formats import Code
from mase.formats.grid import Grid, Signs
from tests.hw.operators import SAMPLES, Unit


def sign(width: int, cols: int, lanes: int, edge: int, zero: bool, fifo: int) -> Unit:
    """Return signs of all integers of a width, one after another, in rows of ``cols``."""
    rows = -(-(1 << width) // (cols * SAMPLES))
    block = Sign(rows, cols, lanes, width, 0, Grid(2, True, -1, 1, signs=Signs(zero=zero)), edge, fifo=fifo)
    low = -(1 << width - 1)
    fed = Code((torch.arange(SAMPLES * rows * cols).reshape(SAMPLES, rows, cols) + low).clamp(max=-low - 1))
    scope = "_".join(map(str, ("sign", width, cols, lanes, edge, int(zero), fifo)))
    return Unit(scope, block, (fed,), block.compute(fed))


def wide(width: int, edge: int, fifo: int) -> Unit:
    """Return signs of integers around an edge of many bits."""
    block = Sign(1, 5, 2, width, 0, Grid(2, True, -1, 1, signs=Signs()), edge, fifo=fifo)
    near = edge + torch.arange(-3, 3).repeat(4)[: 5 * SAMPLES]
    fed = Code((near * torch.tensor([1, -1]).repeat(10)).reshape(SAMPLES, 1, 5))
    return Unit(f"sign_wide_{width}_{fifo}", block, (fed,), block.compute(fed))


def units() -> tuple[Unit, ...]:
    """Return both kinds at all integers: one lane, tails, none; an edge at 0, one that nothing passes, a long one."""
    return (
        sign(5, 1, 1, 3, True, 2),
        sign(6, 5, 2, 0, True, 3),
        sign(6, 7, 4, 31, True, 2),
        sign(5, 4, 2, 40, True, 4),
        sign(6, 5, 3, 0, False, 2),
        sign(4, 4, 4, 0, False, 3),
        wide(52, (1 << 45) + 12345678901, 3),
    )


MUTANTS = (
    ("mase_sign", "t > Edge;", "t >= Edge;", "sign_5_1_1_3", "cycles"),
    ("mase_sign", "t < -Edge;", "t < ~Edge;", "sign_6_5_2_0_1", "cycles"),
    ("mase_sign", "31'(EdgeHigh)", "31'(0)", "sign_wide_52", "cycles"),
    ("mase_sign", "assign above = !in_data_i", "assign above = in_data_i", "sign_6_5_3_0_0", "cycles"),
    ("mase_sign", "(l >= Tail && row_last) ? '0 : y", "y", "sign_6_5_3_0_0", "cycles"),
    ("mase_sign", "(l >= Tail && row_last)", "(l >= Tail)", "sign_6_5_2_0_1", "cycles"),
    ("mase_sign", "assign y = {below, above || below};", "assign y = {below, above};", "sign_5_1_1_3", "cycles"),
    ("mase_sign", "      beat_q  <= '0;\n", "", "sign_6_5_2_0_1", "reset within a result"),
    ("mase_sign", "assign in_ready_o = credit;", "assign in_ready_o = credit && out_ready_i;", "sign_5_1_1_3",
     "handshake"),
)  # fmt: skip
