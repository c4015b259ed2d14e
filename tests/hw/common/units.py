"""Mutants of modules in ``hw/common``, each within a block that a unit of the bench has."""

from __future__ import annotations

from tests.hw.operators import Unit


def units() -> tuple[Unit, ...]:
    """Return none: units are whole blocks."""
    return ()


MUTANTS = (
    ("mase_block_banks", "      full_q       <= '0;\n", "", "normalise_bl6b4s4", "reset"),
    ("mase_block_banks", "in_ready_o   = !full_q[fill_bank_q]", "in_ready_o   = 1'b1", "normalise_all_mxfp4b2_xeven",
     "slow sink"),
    ("mase_block_banks", "full_q[leave_bank_q] && credit_i", "full_q[leave_bank_q]", "normalise_all_mxfp4b2_xeven",
     "slow sink"),
    ("mase_block_banks", "|| fill_col_q == ColWidth'(RowBeats - 1)", "", "normalise_mxfp8e4m3b8_xceil", "cycles"),
    ("mase_block_banks", "data_o <= bank[BankWidth'(beat_q) + (leave_bank_q ? BankWidth'(BlockBeats) : '0)]",
     "data_o <= bank[BankWidth'(beat_q)]", "normalise_mxfp8e4m3b8_xceil", "cycles"),
    ("mase_block_banks", "row_end_o && row_q == RowWidth'(Rows - 1)", "row_end_o", "normalise_mxfp8e4m3b8_xceil",
     "cycles"),
)  # fmt: skip
