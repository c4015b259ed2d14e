"""Scripts of an emitted folder: lint, simulation, synthesis, and the FuseSoC core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def scripts(manifest: Mapping[str, Any], vectors: Sequence[str]) -> dict[str, str]:
    """Return the files by relative path.

    Args:
        vectors: places of the files of vectors.
    """
    top, files = manifest["top"], manifest["files"]
    both = [*files["rtl"], *files["axis"]]
    return {
        "files.f": _lines(files["rtl"]),
        "axis.f": _lines(both),
        f"{top}.core": _core(manifest, vectors),
        "scripts/lint.sh": _LINT.replace("@TOP@", top),
        "scripts/sim.sh": _SIM.replace("@TOP@", top),
        "scripts/synth.ys": _SYNTH.replace("@TOP@", top).replace("@FILES@", " ".join(both)),
    }


def _lines(names: Sequence[str]) -> str:
    return "".join(f"{name}\n" for name in names)


def _core(manifest: Mapping[str, Any], vectors: Sequence[str]) -> str:
    """Return the FuseSoC core file (CAPI2)."""
    top, files = manifest["top"], manifest["files"]
    values = {
        "TOP": top,
        "VERSION": manifest["version"],
        "RTL": "".join(f"      - {name}\n" for name in files["rtl"]),
        "AXIS": "".join(f"      - {name}\n" for name in files["axis"]),
        "MEMORIES": _copied("memories", [(name, name) for name in manifest["memories"]], "mem"),
        "VECTORS": _copied("vectors", [(name, name) for name in vectors], "user"),
    }
    text = _CORE
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _copied(fileset: str, places: Sequence[tuple[str, str]], kind: str) -> str:
    """Return a fileset that lands at the same relative places in the folder in which a tool runs."""
    if not places:
        return f"  {fileset}:\n    files: []\n"
    rows = "".join(f"      - {name}: {{copyto: {place}}}\n" for name, place in places)
    return f"  {fileset}:\n    files:\n{rows}    file_type: {kind}\n"


_LINT = """#!/bin/sh
# Lint the core and the AXI4-Stream wrapper with Verilator, all warnings on. Run from anywhere.
cd "$(dirname "$0")/.." || exit 1
exec verilator --lint-only -Wall --top-module @TOP@_axis -f axis.f
"""

_SIM = """#!/bin/sh
# Run the self-checking bench: scripts/sim.sh [iverilog|verilator] [axis]. Run from anywhere.
# `axis` goes through the AXI4-Stream wrapper. What is compiled lies in $BUILD, or build/ of this folder.
set -e
cd "$(dirname "$0")/.."
axis=0
if [ "$2" = axis ]; then axis=1; fi
build=${BUILD:-build}
mkdir -p "$build"
case "${1:-iverilog}" in
  iverilog)
    iverilog -g2012 -P "@TOP@__bench.Axis=$axis" -s @TOP@__bench -o "$build/@TOP@.vvp" -c axis.f bench/@TOP@__bench.sv
    exec vvp -n "$build/@TOP@.vvp"
    ;;
  verilator)
    verilator --binary --timing "-GAxis=$axis" --top-module @TOP@__bench --Mdir "$build/verilator" -f axis.f \\
      bench/@TOP@__bench.sv
    exec "$build/verilator/V@TOP@__bench"
    ;;
  *)
    echo "found $1; allowed: iverilog, verilator" >&2
    exit 2
    ;;
esac
"""

_SYNTH = """# Synthesis for UltraScale+ with any Yosys. Run in this folder's parent: yosys scripts/synth.ys
read_verilog -sv @FILES@
synth_xilinx -family xcup -flatten -top @TOP@
stat
"""

_CORE = """CAPI=2:
name: mase:generated:@TOP@:@VERSION@
description: Accelerator emitted by mase; design.json says what it computes.
filesets:
  rtl:
    files:
@RTL@    file_type: systemVerilogSource
  axis:
    files:
@AXIS@    file_type: systemVerilogSource
@MEMORIES@  bench:
    files:
      - bench/@TOP@__bench.sv
    file_type: systemVerilogSource
@VECTORS@parameters:
  Axis:
    datatype: int
    default: 0
    paramtype: vlogparam
    description: 1 simulates through the AXI4-Stream wrapper
targets:
  # What a core that depends on this one gets; run by itself, it is the bench.
  default: &sim
    filesets: [rtl, axis, memories, is_toplevel ? (bench), is_toplevel ? (vectors)]
    toplevel: @TOP@__bench
    parameters: [is_toplevel ? (Axis)]
    flow: sim
    flow_options:
      tool: icarus
      iverilog_options: [-g2012]
      verilator_options: [--timing]
      mode: binary
  sim:
    <<: *sim
  lint:
    filesets: [rtl, axis, memories]
    toplevel: @TOP@_axis
    flow: lint
    flow_options:
      tool: verilator
      verilator_options: [-Wall]
  synth:
    filesets: [rtl, axis, memories]
    toplevel: @TOP@
    flow: generic
    flow_options:
      tool: yosys
      arch: xilinx
      output_format: json
      yosys_synth_options: [-family xcup]
"""
