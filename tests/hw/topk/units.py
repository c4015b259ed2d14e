"""Units of ``mase_topk`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

from mase.blocks.topk import Topk
from mase.formats.grid import Grid
from tests.hw.operators import Unit

PLAIN, COUNT = Grid(3, True, -4, 3), Grid(4, False, 0, 15)
BLOCKS = Grid(4, True, -7, 7, block=2, base=-3, exp_bits=2, span=3)


def topk(rows: int, cols: int, k: int, x: Grid, indices: bool, fifo: int) -> Unit:
    """Return the search for the greatest of each row; few codes, so that many are equal."""
    block = Topk(rows, cols, k, x, indices, fifo=fifo)
    return Unit.of("_".join(map(str, ("topk", rows, cols, k, x.width, int(indices), fifo))), block)


def units() -> tuple[Unit, ...]:
    """Return one element, all of a row, one of many, values of either sign, exponents."""
    return (
        topk(1, 1, 1, PLAIN, True, 2),
        topk(2, 7, 3, PLAIN, True, 2),
        topk(3, 5, 5, COUNT, False, 3),
        topk(1, 9, 4, PLAIN, False, 5),
        topk(2, 8, 2, BLOCKS, True, 2),
    )


MUTANTS = (
    ("mase_topk", "value > own", "value >= own", "topk_2_7_3", "cycles"),
    ("mase_topk", "!used_q[j] || ", "", "topk_2_7_3", "cycles"),
    ("mase_topk", "used_q <= '0;\n    end\n", "used_q <= used_q;\n    end\n", "topk_3_5_5", "cycles"),
    ("mase_topk", "<< in_data_i[XWidth +: XExpBits]", "", "topk_2_8_2", "cycles"),
    ("mase_topk", "giving_q ? ColWidth'(K - 1) :", "giving_q ? ColWidth'(K - 2) :", "topk_1_9_4", "cycles"),
    ("mase_topk", "row_last && row_q == RowWidth'(Rows - 1)", "row_last", "topk_2_8_2", "cycles"),
    ("mase_topk", "give       = giving_q && credit", "give       = giving_q", "topk_2_7_3", "slow sink"),
    ("mase_topk", "      giving_q <= 1'b0;\n", "", "topk_2_7_3", "reset within a result"),
    ("mase_topk", "assign x = {1'b0, ", "assign x = {in_data_i[XWidth-1], ", "topk_3_5_5", "cycles"),
)
