"""Units of ``mase_threshold`` for the bench of all blocks, and its mutants."""

from __future__ import annotations

from mase.blocks.threshold import Steps, Threshold
from mase.formats.grid import Grid
from tests.hw.operators import Unit


def threshold(
    shape: tuple[int, int, int], x: Grid, low: int, thresholds: tuple[int, ...], bits: int, fifo: int
) -> Unit:
    """Return thresholds on a stream (rows, cols, lanes); bits of the result, signed where it can be negative."""
    half = 1 << bits - 1
    y = Grid(bits, True, -half, half - 1) if low < 0 else Grid(bits, False, 0, 2 * half - 1)
    block = Threshold(*shape, Steps(x, y, low, thresholds), fifo=fifo)
    return Unit.of("_".join(map(str, ("threshold", *shape, x.width, int(x.signed), len(thresholds), fifo))), block)


def units() -> tuple[Unit, ...]:
    """Return one beat, tails, a result that starts above 0 (tails must not), all thresholds, some that are equal."""
    signed, wide = Grid(6, True, -32, 31), Grid(20, True, -(1 << 19), (1 << 19) - 1)
    return (
        threshold((1, 1, 1), signed, -1, (0, 5), 2, 2),
        threshold((2, 7, 3), Grid(5, False, 0, 31), 1, (1, 7, 30), 3, 4),
        threshold((2, 5, 8), signed, -8, (-31, -20, -20, -9, -1, 0, 1, 2, 3, 9, 11, 13, 20, 29, 31), 4, 3),
        threshold((3, 6, 3), wide, 0, (-(1 << 19) + 1, 12345, (1 << 19) - 1), 2, 5),
    )


MUTANTS = (
    ("mase_threshold", "x >= A'(T)", "x > A'(T)", "threshold_2_5_8", "cycles"),
    ("mase_threshold", "x = {1'b0, ", "x = {in_data_i[(l+1)*XWidth-1], ", "threshold_2_7_3", "cycles"),
    ("mase_threshold", "sum = OutWidth'(Low);", "sum = '0;", "threshold_2_7_3", "cycles"),
    ("mase_threshold", "(l >= Tail && row_end) ?", "(l >= Tail && last) ?", "threshold_2_7_3", "cycles"),
    ("mase_threshold", "i < Count; i++) sum", "i < Count - 1; i++) sum", "threshold_3_6_3", "cycles"),
    ("mase_threshold", "      beat_q  <= '0;\n", "", "threshold_3_6_3", "reset"),
    ("mase_threshold", "assign in_ready_o = credit;", "assign in_ready_o = credit && out_ready_i;", "threshold_1_1_1",
     "handshake"),
)  # fmt: skip
