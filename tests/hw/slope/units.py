"""Units of ``mase_slope`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

import torch

from mase.blocks.slope import Slopes, SlopeUnit
from mase.formats import parse
from mase.formats.grid import Grid
from tests.hw.operators import Unit


def slope(
    shape: tuple[int, int, int], source: str, target: str, fifo: int, mode: str = "even", own: bool = False
) -> Unit:
    """Return slopes of a stream (rows, cols, lanes); own: each row has its own."""
    rows, cols, lanes = shape
    torch.manual_seed(sum(shape))
    grids, scales = list[Grid](), []
    for text, data in ((source, torch.randn(8, cols)), (target, 2 * torch.randn(8, cols))):
        fmt = parse(text)
        params = fmt.calibrate(data)
        grids.append(fmt.grid(params, "unit"))
        scales.append(params.scale if grids[-1].scaled else None)
    slopes = torch.randn(rows if own else 1, cols).double().expand(rows, cols)
    found = Slopes.over(*grids, (scales[0], scales[1]), slopes, mode, "unit")
    scope = "_".join(map(str, ("slope", *shape, source, target, fifo, mode, int(own))))
    return Unit.of(scope, SlopeUnit(found, lanes, fifo=fifo))


def units() -> tuple[Unit, ...]:
    """Return one element, tails, slopes of each row, exponents, results in blocks."""
    return (
        slope((1, 1, 1), "fixed6.3", "fixed6.3", 2),
        slope((2, 7, 3), "int5", "int6", 5, "half_up"),
        slope((3, 5, 2), "fixed7.4", "fixed6.2", 4, "trunc", own=True),
        slope((2, 9, 4), "mxint5b4e2", "fixed8.3", 4),
        slope((2, 6, 2), "fixed6.3", "mxint4b2e3", 6),
    )


MUTANTS = (
    ("mase_slope", "shifted_q[Shifted-1] ?", "!shifted_q[Shifted-1] ?", "slope_1_1_1", "cycles"),
    ("mase_slope", "MultWidth'(Positive)", "MultWidth'(Positive >> 1)", "slope_2_7_3", "cycles"),
    ("mase_slope", "mult[l*MultWidth +: MultWidth]", "mult[0 +: MultWidth]", "slope_2_7_3", "cycles"),
    ("mase_slope", "(word_q == WordWidth'(Words - 1)) ? '0 :", "last ? '0 :", "slope_2_9_4", "cycles"),
    ("mase_slope", "Shifted'(x) << in_data_i", "Shifted'(x) >> in_data_i", "slope_2_9_4", "cycles"),
    ("mase_slope", "      word_q  <= '0;\n", "", "slope_3_5_2", "reset within a result"),
    ("mase_slope", "assign in_ready_o = credit;", "assign in_ready_o = credit && out_ready_i;", "slope_1_1_1",
     "handshake"),
)  # fmt: skip
