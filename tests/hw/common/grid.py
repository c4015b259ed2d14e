"""The parameter sets of ``hw/common`` that are tested, all compiled into one simulation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path

import pytest

from emit.tools import which
from mase.paths import cache_dir, hw_dir
from tests.hw.bench import Instance, bench
from tests.hw.stream import run_block

TOP = "common_bench"
NO_ICARUS = pytest.mark.skipif(which("iverilog") is None, reason="no iverilog: apt-get install iverilog")
SIMULATORS = ("verilator", pytest.param("icarus", marks=NO_ICARUS))  # the second one shows what is undefined
OPERATOR_SIMULATORS = ("verilator", pytest.param("icarus", marks=(NO_ICARUS, pytest.mark.nightly)))  # and takes minutes


@dataclass(frozen=True)
class Conversion:
    """One parameter set of the width converter; counts are in units."""

    unit_width: int
    in_units: int
    out_units: int
    in_beats: int
    in_tail: int
    out_beats: int
    out_tail: int
    rows: int
    drop_tail: int
    fifo_depth: int = 4

    @property
    def scope(self) -> str:
        return "convert_" + "_".join(str(getattr(self, field.name)) for field in fields(self))

    @property
    def parameters(self) -> dict[str, int]:
        return {"".join(map(str.title, f.name.split("_"))): int(getattr(self, f.name)) for f in fields(self)}


def conversion(units: int, in_units: int, out_units: int, rows: int = 2, width: int = 4, depth: int = 4) -> Conversion:
    """Return the conversion of rows of ``units`` units from ``in_units`` a beat to ``out_units`` a beat."""
    ins, outs = ceil(units / in_units), ceil(units / out_units)
    tails = units - (ins - 1) * in_units, units - (outs - 1) * out_units
    return Conversion(width, in_units, out_units, ins, tails[0], outs, tails[1], rows, 1, depth)


def reshaping(row_in: int, in_units: int, row_out: int, out_units: int, rows: int, width: int = 4) -> Conversion:
    """Return the conversion of rows of ``row_in`` units into ``rows`` rows of ``row_out`` units, as a reshape does."""
    assert rows * row_out % row_in == 0
    a, b = conversion(row_in, in_units, 1), conversion(row_out, 1, out_units)
    return Conversion(width, in_units, out_units, a.in_beats, a.in_tail, b.out_beats, b.out_tail, rows, 0)


FIFO_DEPTHS = (1, 2, 3, 5, 8)
CREDIT_DEPTHS = (2, 3, 4, 7)
SKID_WIDTHS = (1, 8, 37)
GUARD_BEATS = (1, 2, 5, 8)
FRAMED_BEATS = (1, 2, 5)  # of the blocks that keep frames whole
ROM_WORDS = {1: (0xABC,), 5: (0x001, 0xFFF, 0x800, 0x7FF, 0x123)}
CONVERSIONS = (
    *(
        conversion(12, a, b)
        for a, b in ((1, 1), (4, 4), (1, 4), (4, 1), (2, 6), (6, 2), (12, 1), (1, 12), (5, 7), (7, 5))
    ),
    *(conversion(7, a, b, rows=3) for a, b in ((1, 3), (3, 1), (2, 3), (3, 2), (7, 7), (4, 4), (8, 3), (3, 8), (5, 1))),
    conversion(1, 1, 1, rows=1, width=1),
    conversion(1, 3, 2, rows=5, width=9),
    conversion(13, 3, 5, rows=1, depth=2),
    conversion(13, 5, 1, rows=2, depth=2),
    conversion(13, 5, 1, rows=2, depth=3),
    Conversion(4, 4, 2, 2, 4, 3, 2, 2, 1),  # an input row of 8 of which the output wants 6: the rest is dropped
    reshaping(12, 4, 12, 3, rows=1),
    reshaping(12, 5, 4, 3, rows=3),
    reshaping(3, 2, 12, 5, rows=1),
    reshaping(5, 3, 7, 4, rows=5),
    reshaping(7, 1, 5, 5, rows=7, width=11),
)
INSTANCES = (
    *(Instance(f"fifo_{depth}", "mase_fifo", {"Width": 8, "Depth": depth}) for depth in FIFO_DEPTHS),
    *(Instance(f"credit_{depth}", "mase_credit_fifo", {"Width": 8, "Depth": depth}) for depth in CREDIT_DEPTHS),
    *(Instance(f"skid_{width}", "mase_skid_buffer", {"Width": width}) for width in SKID_WIDTHS),
    *(Instance(f"guard_{beats}", "mase_stream_guard", {"Beats": beats}) for beats in GUARD_BEATS),
    Instance("reset_sync", "mase_reset_sync"),
    Instance("watch_3", "mase_stream_resync", {"Width": 6, "Beats": 3, "Resync": 0}),
    *(Instance(f"resync_{beats}", "mase_stream_resync", {"Width": 6, "Beats": beats}) for beats in FRAMED_BEATS),
    *(Instance(f"finish_{beats}", "mase_stream_finish", {"Width": 6, "Beats": beats}) for beats in FRAMED_BEATS),
    *(
        Instance(f"rom_{len(words)}", "mase_rom", {"Width": 12, "Depth": len(words), "File": f"rom_{len(words)}.mem"})
        for words in ROM_WORDS.values()
    ),
    *(Instance(case.scope, "mase_width_converter", case.parameters) for case in CONVERSIONS),
)


def sources() -> list[Path]:
    """Return the files of the modules that are tested."""
    return [hw_dir() / "common" / f"{name}.sv" for name in dict.fromkeys(instance.module for instance in INSTANCES)]


def run_common(test_module: str, work: Path, simulator: str) -> None:
    """Run the cocotb tests of one module on the simulation of all instances, in the folder ``work``."""
    top = work / f"{TOP}.sv"
    top.write_text(bench(TOP, INSTANCES, sources()))
    for words in ROM_WORDS.values():
        (work / f"rom_{len(words)}.mem").write_text("".join(f"{word:03x}\n" for word in words))
    run_block(TOP, [*sources(), top], {}, test_module, cache=cache_dir(), work=work, simulator=simulator)
