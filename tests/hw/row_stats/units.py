"""Units of ``mase_row_stats`` for the greatest of each row, for the bench of all blocks, and its mutants."""

from __future__ import annotations

from mase.blocks.row_stats import RowStats, Stats
from mase.formats import QuantParams
from mase.formats.grid import Grid
from mase.formats.mxint import MXInt
from tests.hw.operators import Unit


def greatest(shape: tuple[int, int, int], x: Grid, fifo: int) -> Unit:
    """Return the greatest of each row of a stream (rows, cols, lanes)."""
    rows, cols, lanes = shape
    block = RowStats(rows, lanes, Stats(cols, x, False, 1, maximum=True), fifo=fifo)
    return Unit.of("_".join(map(str, ("row_stats_most", *shape, x.width, x.block, fifo))), block)


def units() -> tuple[Unit, ...]:
    """Return one element, tails of rows that may be all below 0, codes without a sign, exponents."""
    signed = Grid(5, True, -16, 15)
    return (
        greatest((1, 1, 1), signed, 2),
        greatest((3, 7, 3), signed, 2),
        greatest((4, 6, 6), Grid(4, False, 0, 15), 3),
        greatest((2, 9, 4), MXInt(5, 4, 3).grid(QuantParams(), "unit"), 4),
        greatest((3, 5, 8), signed, 4),
    )


MUTANTS = (
    ("mase_row_stats", "i >= Tail && row_end", "i >= Tail && last", "row_stats_most_3_7_3", "cycles"),
    ("mase_row_stats", "Shifted'(1) << (Shifted - 1)", "'0", "row_stats_most_3_5_8", "cycles"),
    ("mase_row_stats", "beat_most > most_q", "beat_most < most_q", "row_stats_most_3_7_3", "cycles"),
    ("mase_row_stats", "begin_q[Stages-1] || beat_most", "beat_most", "row_stats_most_2_9_4", "cycles"),
    ("mase_row_stats", "most_q3 <= most_q2;", "most_q3 <= most_q;", "row_stats_most_4_6_6", "cycles"),
)
