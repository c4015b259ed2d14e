"""Broken blocks are caught by their units: mistakes in copies of the RTL, all compiled into one simulation.

The units without a mistake pass the tests of their blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import SimTimeoutError, with_timeout

from emit import library
from emit.verilog import library_files
from mase.paths import cache_dir
from tests.hw import operators
from tests.hw.bench import Instance, bench
from tests.hw.operators import Unit, ends, move, streams
from tests.hw.stream import run_block, start

TOP = "mutant_bench"
STALLED = (0.4, 0.4)


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        module: in which it is. unit: start of the scope of the unit that sees it. text, instead: what it replaces.
        stalls: under which it shows; without any, cycles count too.
    """

    module: str
    unit: str
    text: str
    instead: str
    stalls: tuple[float, float] = (0.0, 0.0)


MUTANTS = {
    "a window that begins a beat early": Mutant(
        "mase_window", "window_5_7", "level_q >= LevelWidth'(Span)", "level_q >= LevelWidth'(Span - 1)"
    ),
    "a window that does not wait": Mutant("mase_window", "window_7_5", "open_q <= !window_end;", "open_q <= 1'b1;"),
    "a beat too many in the buffer": Mutant(
        "mase_window", "window_5_7", "in_ready_o = level_q <", "in_ready_o = level_q <="
    ),
    "rows of a window too close": Mutant(
        "mase_window", "window_7_7", "around(DilationHeight * Row -", "around(DilationHeight * Row - 1 -"
    ),
    "columns of a window too close": Mutant(
        "mase_window", "window_7_7", "around(DilationWidth * Pixel - Beats + 1)", "around(1)"
    ),
    "groups that start in the wrong place": Mutant("mase_window", "window_4_5", "around(1 - Far)", "around(2 - Far)"),
    "images that begin in the wrong place": Mutant("mase_window", "window_5_6", "around(NextImage", "around(NextRow"),
    "slots of an image that never come back": Mutant(
        "mase_window", "window_5_6", ": LevelWidth'(NextImage);", ": LevelWidth'(NextRow);"
    ),
    "a last in every row": Mutant("mase_window", "window_5_7", "<= row_end && row_last;", "<= row_end;"),
    "an image a row too high": Mutant(
        "mase_pad", "pad_2_3", "image_row < RowWidth'(Height)", "image_row <= RowWidth'(Height)"
    ),
    "left for right": Mutant("mase_pad", "pad_2_3", "col_q - ColWidth'(Left)", "col_q - ColWidth'(Right)"),
    "a border without its code": Mutant("mase_pad", "pad_3_1", "CodeWidth'(Mantissa)", "CodeWidth'(0)"),
    "a tail that is not 0": Mutant("mase_pad", "pad_1_4", "(i < Tail || !beat_last)", "(i < Lanes)"),
    "an exponent beyond the tail": Mutant("mase_pad", "pad_1_3", "(i < TailExps || !beat_last)", "(i < Exps)"),
    "a last in every beat of a pixel": Mutant(
        "mase_pad", "pad_2_3", "row_last && col_last && beat_last;", "row_last && col_last;"
    ),
    "a beat that is not there": Mutant(
        "mase_pad", "pad_2_3", "credit && (!in_image || in_valid_i)", "credit", STALLED
    ),
    "blocks that go on in the next part": Mutant(
        "mase_linear_control", "parts_blocks", "part_q == PartWidth'(PartTiles - 1)", "k_last"
    ),
    "weights of the first set for all": Mutant(
        "mase_linear_control", "parts_sets", "tile_q == TileWidth'(Tiles - 1)", "tile_q == TileWidth'(OutTiles - 1)"
    ),
}  # fmt: skip


def unit_of(mutant: Mutant) -> Unit:
    """Return the unit that sees a mistake."""
    return next(unit for unit in operators.units() if unit.scope.startswith(mutant.unit))


def scope(name: str) -> str:
    """Return the scope of a mutant in the bench."""
    return name.replace(" ", "_")


@cocotb.test()
@cocotb.parametrize(name=list(MUTANTS))
async def the_mistake_is_seen(dut: HierarchyObject, name: str) -> None:
    mutant = MUTANTS[name]
    unit = replace(unit_of(mutant), scope=scope(name))
    await start(dut)
    try:
        first, found = await with_timeout(move(unit, streams(dut, unit), mutant.stalls), 8, "us")
    except (AssertionError, SimTimeoutError):
        return
    assert not any(mutant.stalls), name
    assert ends(found, first) != unit.completions(), name


@pytest.mark.sim
def test_every_mistake_is_seen(tmp_path: Path) -> None:
    sources, instances = [*library_files(["mase_rom"])], []
    for i, (name, mutant) in enumerate(MUTANTS.items()):
        unit = unit_of(mutant)
        files = {f"rtl/{path.name}": path.read_text() for path in library_files([unit.block.sv_module])}
        broken = f"rtl/{mutant.module}.sv"
        assert files[broken].count(mutant.text) == 1, f"{name}: {files[broken].count(mutant.text)} places"
        files[broken] = files[broken].replace(mutant.text, mutant.instead)
        modules = [Path(file).stem for file in files]
        for file, text in library.private(f"mutant{i}", files, modules).items():
            path = tmp_path / Path(file).name
            path.write_text(str(text))
            sources.append(path)
        parameters: dict[str, int | str] = dict(unit.block.sv_params())
        for key, image in unit.block.memories().items():
            parameters[key] = f"{scope(name)}_{key}.mem"
            (tmp_path / f"{scope(name)}_{key}.mem").write_text(image.text())
        module = library.private_name(f"mutant{i}", unit.block.sv_module)
        instances.append(Instance(scope(name), module, parameters))
    top = tmp_path / f"{TOP}.sv"
    top.write_text(bench(TOP, instances, sources))
    run_block(TOP, [*dict.fromkeys(sources), top], {}, __name__, cache=cache_dir(), work=tmp_path)
