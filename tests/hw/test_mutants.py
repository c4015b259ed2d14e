"""Mistakes in blocks with several streams and in those that move elements: each is caught by a unit of the bench."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import SimTimeoutError, with_timeout

from emit.verilog import library_files
from mase.paths import cache_dir, hw_dir
from tests.hw import operators
from tests.hw.bench import Instance, bench
from tests.hw.operators import Unit
from tests.hw.stream import run_block

TOP = "mutant_bench"
Check = Callable[[HierarchyObject, Unit], Coroutine[None, None, None]]


async def _stalled(dut: HierarchyObject, unit: Unit) -> None:
    await operators.gives_what_the_reference_gives(dut, unit, (0.4, 0.4))


async def _slow_sink(dut: HierarchyObject, unit: Unit) -> None:
    await operators.gives_what_the_reference_gives(dut, unit, (0.0, 0.9))


FREE, STALLED, SLOW = operators.takes_the_cycles_of_its_schedule, _stalled, _slow_sink
RESET, REGISTERED = operators.starts_over_after_a_reset, operators.has_no_path_through_the_handshake
WITHIN = operators.starts_over_from_within_a_result
CHECKS = {
    "cycles": FREE,
    "stalls": STALLED,
    "slow sink": SLOW,
    "reset": RESET,
    "reset within a result": WITHIN,
    "handshake": REGISTERED,
}
NAMES = {check: name for name, check in CHECKS.items()}


@dataclass(frozen=True)
class Mutant:
    """One edit of a module, the start of the name of a unit that finds it, and how."""

    module: str
    text: str
    instead: str
    unit: str
    check: Check = FREE

    @property
    def name(self) -> str:
        """Name of the module with the mistake, and of the instance that has it."""
        return f"{self.module}_mutant{MUTANTS.index(self)}"

    @property
    def top(self) -> str:
        """Name of the block with the mistake, in it or in a module of ``hw/common`` that it has inside."""
        block = self.victim.block.sv_module
        return self.name if block == self.module else f"{block}_of_{self.name}"

    @property
    def victim(self) -> Unit:
        """Return the unit that shall find it."""
        (unit,) = (unit for unit in _units() if unit.scope.startswith(self.unit))
        return Unit(self.name, unit.block, unit.fed, unit.given)

    def sources(self) -> dict[str, str]:
        """Return the module with the mistake, under its own name, and the block around it."""
        text = _text(self.module)
        assert text.count(self.text) >= 1, f"{self.module} has no {self.text!r}"
        wrong = text.replace(self.text, self.instead).replace(f"module {self.module} ", f"module {self.name} ")
        if self.top == self.name:
            return {self.name: wrong}
        block = self.victim.block.sv_module
        around = _text(block).replace(f"module {block} ", f"module {self.top} ")
        assert f" {self.module} #(" in around, f"{block} has no {self.module}"
        return {self.name: wrong, self.top: around.replace(f" {self.module} #(", f" {self.name} #(")}


def _text(module: str) -> str:
    return next(hw_dir().rglob(f"{module}.sv")).read_text()


@cache
def _units() -> tuple[Unit, ...]:
    return operators.units()


MUTANTS: tuple[Mutant, ...] = (
    Mutant("mase_fork", "credit_a && credit_b", "credit_b", "fork_2_7_3_0_2_9", STALLED),
    Mutant("mase_fork", "beat_q == BeatWidth'(Beats - 1)", "beat_q == '0", "fork_2_7_3_0_2_9"),
    Mutant("mase_fork", "push_data_i({last, in_data_i})", "push_data_i({1'b0, in_data_i})", "fork_1_1_1"),
    Mutant("mase_fork", "if (!rst_ni) beat_q <= '0;\n    else if", "if", "fork_2_7_3_0_2_9", RESET),
    Mutant("mase_fork", "in_ready_o = credit_a", "in_ready_o = a_ready_i && credit_a", "fork_1_1_1", REGISTERED),
    Mutant("mase_pair", "credit && b_valid_i", "credit", "pair_fixed6_4_fixed5_2", STALLED),
    Mutant("mase_pair", "Sum'(a) - Sum'(b)", "Sum'(b) - Sum'(a)", "pair_ufixed5_1"),
    Mutant("mase_pair", "(AOut > BOut) ? AOut + 1 : BOut + 1", "(AOut > BOut) ? AOut : BOut", "pair_fixed6_4_fixed5_2"),
    Mutant("mase_pair", "(a_level > b_level) ? a_level : b_level", "a_level", "pair_mxint6b4_fixed5_2"),
    Mutant("mase_pair", "top_q[(Stages-1)*ExpWidth", "top_q[(Stages-2)*ExpWidth", "pair_mxint4b2e5"),
    Mutant("mase_pair", "l / BBlock", "0", "pair_int5_mxint5b2"),
    Mutant("mase_pair", "Sum'(a * b)", "Sum'(a) * Sum'($signed({1'b0, b[BOut-2:0]}))", "pair_int5_fixed4_2_int4"),
    Mutant("mase_pair", "valid_q <= '0;", "", "pair_int5_mxint5b2", RESET),
    Mutant(
        "mase_concat",
        "BeatWidth'(BeatsB - 1) : BeatWidth'(BeatsA - 1)",
        "BeatWidth'(BeatsA - 1) : BeatWidth'(BeatsB - 1)",
        "join_4_7_2_7",
    ),
    Mutant("mase_concat", "side_q && side_end && outer_end", "side_end && outer_end", "join_2_8_2_6"),
    Mutant("mase_concat", "side_q ? b_data_i : a_data_i", "side_q ? a_data_i : b_data_i", "join_1_1_1_1"),
    Mutant("mase_concat", "side_q <= side_q ^ side_end;", "side_q <= side_end;", "join_4_7_2_7"),
    Mutant("mase_concat", "side_q  <= 1'b0;", "", "join_3_4_3_5", RESET),
    Mutant("mase_concat", "credit && side_q;", "credit && side_q && a_valid_i;", "join_3_4_3_5", STALLED),
    Mutant("mase_slice", "place_q == next_q &&", "", "keep_3_7_1"),
    Mutant("mase_slice", "next_q + SizeWidth'(Step)", "next_q + SizeWidth'(1)", "keep_12_3_3"),
    Mutant("mase_slice", "credit || !keep", "1'b1", "keep_6_5_2", STALLED),
    Mutant("mase_slice", "kept_q == SizeWidth'(Count - 1) && outer_end", "outer_end", "keep_12_3_3"),
    Mutant("mase_slice", "          next_q  <= SizeWidth'(First);\n          kept_q", "          kept_q", "keep_2_9_3"),
    Mutant("mase_slice", "if (inner_end) begin", "begin", "keep_12_3_3"),
    Mutant("mase_reorder", "!full_q[fill_q]", "1'b1", "reorder_3_4_4_3", SLOW),
    Mutant(
        "mase_reorder", "full_q[leave_q] && credit", "(full_q[leave_q] || write_q != '0) && credit", "reorder_3_4_4_3"
    ),
    Mutant(
        "mase_reorder",
        "leave_q ? AddressWidth'(Start) : AddressWidth'(Words + Start)",
        "AddressWidth'(Start)",
        "reorder_3_2_6_2",
    ),
    Mutant("mase_reorder", "step = AddressWidth'(Step3)", "step = AddressWidth'(Step4)", "reorder_6_5_6_5"),
    Mutant("mase_reorder", "last_q <= end0;", "last_q <= end2;", "reorder_2_3_24_3"),
    Mutant("mase_reorder", "full_q   <= '0;", "", "reorder_2_8_4_4", RESET),
    Mutant("mase_reorder", "if (end3) count2_q", "if (end4) count2_q", "reorder_2_12_6_4"),
    Mutant("mase_window", "level_q >= LevelWidth'(Span)", "level_q >= LevelWidth'(Span - 1)", "window_5_7"),
    Mutant("mase_window", "in_ready_o = level_q <", "in_ready_o = level_q <=", "window_5_7", SLOW),
    Mutant("mase_window", "around(DilationHeight * Row -", "around(DilationHeight * Row - 1 -", "window_7_7"),
    Mutant("mase_window", "around(DilationWidth * Pixel - Beats + 1)", "around(1)", "window_7_7"),
    Mutant("mase_window", "around(1 - Far)", "around(2 - Far)", "window_4_5"),
    Mutant("mase_window", "around(NextImage", "around(NextRow", "window_5_6"),
    Mutant("mase_window", ": LevelWidth'(NextImage);", ": LevelWidth'(NextRow);", "window_5_6"),
    Mutant("mase_window", "<= row_end && row_last;", "<= row_end;", "window_5_7"),
    Mutant("mase_window", "level_q      <= '0;", "", "window_7_5", RESET),
    Mutant("mase_align", "now > past", "now < past", "align_2_3"),
    Mutant("mase_align", "fill_tap_q == '0 ||", "", "align_2_3"),
    Mutant("mase_align", "(leave_bank_q ? Place'(Beats) : '0)", "(!leave_bank_q ? Place'(Beats) : '0)", "align_2_3"),
    Mutant("mase_align", "high >>> down", "high >> down", "align_2_3"),
    Mutant("mase_align", "x << Guard", "x << (Guard - 1)", "align_2_3"),
    Mutant("mase_align", "(b > a) ? b : a", "(b < a) ? b : a", "align_3_2"),
    Mutant("mase_align", "leave_end && group_q", "group_q", "align_3_2"),
    Mutant("mase_align", "full_q[leave_bank_q] && credit", "full_q[leave_bank_q]", "align_2_3", SLOW),
    Mutant("mase_pad", "image_row < RowWidth'(Height)", "image_row <= RowWidth'(Height)", "pad_1_4"),
    Mutant("mase_pad", "col_q - ColWidth'(Left)", "col_q - ColWidth'(Right)", "pad_2_3"),
    Mutant("mase_pad", "CodeWidth'(Mantissa)", "CodeWidth'(0)", "pad_3_1"),
    Mutant("mase_pad", "(i < Tail || !beat_last)", "(i < Lanes)", "pad_1_4"),
    Mutant("mase_pad", "(i < TailExps || !beat_last)", "(i < Exps)", "pad_1_3"),
    Mutant("mase_pad", "row_last && col_last && beat_last;", "row_last && col_last;", "pad_2_3"),
    Mutant("mase_pad", "credit && (in_valid_i || !(in_image || first))", "credit", "pad_2_3", STALLED),
    Mutant("mase_cache", "read_q <= full_q ? write_next : '0;", "read_q <= '0;", "cache_5_3_3"),
    Mutant("mase_cache", "full_q <= full_q || write_next == '0;", "full_q <= write_next == '0;", "cache_5_3_3"),
    Mutant("mase_cache", "if (take) newest_q <= write_q;", "newest_q <= write_q;", "cache_4_5_2"),
    Mutant("mase_cache", "last_q <= given && last;", "last_q <= given;", "cache_4_5_2"),
    Mutant("mase_cache", "          write_q <= '0;\n          full_q", "          full_q", "cache_5_3_3"),
    Mutant("mase_cache", "give_q && credit", "give_q", "cache_4_5_2", SLOW),
    Mutant("mase_cache", "in_ready_o = !give_q", "in_ready_o = 1'b1", "cache_3_6_2"),
    Mutant("mase_row_stats", "scaled_q - product_q", "scaled_q + product_q", "row_stats_3_7_3"),
    Mutant("mase_row_stats", "(begin_q[Stages-1] ? '0 : sum_q)", "sum_q", "row_stats_3_7_3"),
    Mutant("mase_row_stats", "+ OutWidth'(Eps)", "+ OutWidth'(EpsLow)", "row_stats_3_7_3"),
    Mutant("mase_row_stats", "i / XBlock", "0", "row_stats_2_9_4"),
    Mutant("mase_row_stats", "row_end && row_q == RowWidth'(Rows - 1)", "row_end", "row_stats_4_6_6"),
    Mutant("mase_row_stats", "credit || !row_end", "1'b1", "row_stats_4_6_6", SLOW),
    Mutant("mase_root", "added <= rest", "added < rest", "root_3_2_9"),
    Mutant("mase_root", "(twice >> 1)", "twice", "root_3_2_9"),
    Mutant("mase_root", "31'(TopHigh)", "31'(0)", "root_5_2_19"),
    Mutant("mase_root", "row_q == RowWidth'(Rows - 1);", "1'b1;", "root_4_1_7"),
    Mutant("mase_root", "credit && left_q == '0", "left_q == '0", "root_4_1_7", SLOW),
    Mutant("mase_root", "Power * (Padded - 1)", "Power * Padded", "root_3_2_9"),
    Mutant("mase_root", "if (fire) also_q", "also_q", "root_4_1_7"),
    Mutant("mase_row_scale", "x_valid_i && row_end", "x_valid_i", "row_scale_3_7_3"),
    Mutant("mase_row_scale", "DiffWidth'(Cols) - row_sum_q", "DiffWidth'(Cols) + row_sum_q", "row_scale_3_7_3"),
    Mutant("mase_row_scale", "2*RootBits +: RootBits", "RootBits +: RootBits", "row_scale_2_9_4"),
    Mutant("mase_row_scale", "SumWidth'(add2_q)", "SumWidth'(add_q)", "row_scale_3_7_3"),
    Mutant("mase_row_scale", "l*MultWidth +: MultWidth", "0 +: MultWidth", "row_scale_2_9_4"),
    Mutant("mase_row_scale", "valid_q <= '0;", "", "row_scale_3_7_3", RESET),
    Mutant("mase_row_scale", "credit && r_valid_i;", "credit;", "row_scale_3_7_3", STALLED),
    Mutant("mase_linear", ".part_last_i(part_last)", ".part_last_i(k_last)", "parts_blocks"),
    Mutant("mase_linear", ".tile_i     (tile)", ".tile_i     (TileWidth'(0))", "parts_sets"),
    Mutant("mase_linear", ".first_i    (k == '0)", ".first_i    (1'b1)", "parts_set_blocks"),
    Mutant("mase_linear", ".Keep(OutTiles > 1 || Aligned)", ".Keep(1'b0)", "parts_plain"),
    Mutant("mase_linear", ".push_data_i({y_last, y})", ".push_data_i({1'b0, y})", "parts_plain"),
    *(Mutant(*edit, CHECKS[check]) for module in operators.own() for *edit, check in module.MUTANTS),
)


@cocotb.test(timeout_time=40, timeout_unit="us")
@cocotb.parametrize(mutant=MUTANTS)
async def a_mutant_is_caught(dut: HierarchyObject, mutant: Mutant) -> None:
    try:
        await with_timeout(mutant.check(dut, mutant.victim), 5, "us")
    except (AssertionError, SimTimeoutError):
        return
    raise RuntimeError(f"{mutant.name} passes {NAMES[mutant.check]}")


@pytest.mark.sim
def test_every_mutant_is_caught(tmp_path: Path) -> None:
    """Compile all of them into one simulation; no assertion of theirs may end it."""
    blocks = sorted({mutant.victim.block.sv_module for mutant in MUTANTS})
    sources = {path.stem: path for path in library_files(blocks)}
    edited = {"mase_credit_fifo": _text("mase_credit_fifo")}
    for mutant in MUTANTS:
        edited |= mutant.sources()
    for name, text in edited.items():
        sources[name] = tmp_path / f"{name}.sv"
        sources[name].write_text(text.replace("`ifndef SYNTHESIS", "`ifdef NEVER"))
    instances = []
    for mutant in MUTANTS:
        block = mutant.victim.block
        files = {key: f"{mutant.name}_{key}.mem" for key in block.memories()}
        for key, image in block.memories().items():
            (tmp_path / files[key]).write_text(image.text())
        instances.append(Instance(mutant.name, mutant.top, {**block.sv_params(), **files}))
    top = tmp_path / f"{TOP}.sv"
    top.write_text(bench(TOP, instances, list(sources.values())))
    run_block(TOP, [*sources.values(), top], {}, __name__, cache=cache_dir(), work=tmp_path)


@pytest.mark.parametrize("module", sorted({mutant.module for mutant in MUTANTS}))
def test_every_block_has_five_mutants(module: str) -> None:
    assert sum(mutant.module == module for mutant in MUTANTS) >= 5
