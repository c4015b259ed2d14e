"""Units of ``mase_encode`` for logarithms, for the bench of all blocks, and mutants of the block."""

from __future__ import annotations

from tests.hw.operators import Unit, encode


def units() -> tuple[Unit, ...]:
    """Return all integers of a width into logarithms: least and greatest powers, some and all beyond the ends."""
    return (
        encode("log4", 11, 4, -6, 3),
        encode("log5b3", 12, 3, -9, 2),
        encode("log2b0", 5, 1, -2, 4),
        encode("log7b60", 9, 8, -3, 2),
        encode("log3", 6, 4, 40, 2),
        encode("log3", 6, 2, -40, 3),
    )


MUTANTS = (
    ("mase_encode", ".ExpBits(ExpBits), .Top(Top)", ".ExpBits(ExpBits), .Top(Top - 1)", "encode_log4_11", "cycles"),
    ("mase_encode", ".down_i(DownWidth'(Down)),", ".down_i(DownWidth'(Down + 1)),", "encode_log5b3", "cycles"),
    ("mase_encode", "push_data_i({last_q[2], result})", "push_data_i({last_q[1], result})", "encode_log4_11", "cycles"),
    ("mase_encode", "push_i     (valid_q[2])", "push_i     (valid_q[1])", "encode_log5b3", "cycles"),
    ("mase_encode", "      beat_q  <= '0;\n", "", "encode_log4_11", "reset"),
    ("mase_encode", "assign in_ready_o = credit;", "assign in_ready_o = credit && out_ready_i;", "encode_log2b0",
     "handshake"),
)  # fmt: skip
