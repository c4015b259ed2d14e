"""What stands beside the RTL: file lists, AXI4-Stream wrapper, scripts, vectors, map and README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emit import host, readme
from emit.bench import bench
from emit.design import Edge
from emit.scripts import scripts
from mase.formats import Code
from mase.paths import hw_dir


def render(manifest: Mapping[str, Any], edges: Sequence[Edge], vectors: Mapping[str, Code]) -> dict[str, str | bytes]:
    """Return the files beside the sources by relative path."""
    top, samples = manifest["top"], vectors["input"].mantissa.shape[0]
    return scripts(manifest) | {
        f"bench/{top}__bench.sv": bench(manifest, edges[0], edges[-1], samples),
        "vectors/input.hex": _hex(edges[0], vectors["input"]),
        "vectors/output.hex": _hex(edges[-1], vectors["output"]),
        "host.py": Path(host.__file__).read_text(),
        "README.md": _readme(manifest, edges, samples),
    }


def wrapper(top: str, edges: Sequence[Edge], memories: bool) -> dict[str, str | bytes]:
    """Return the sources of the AXI4-Stream wrapper."""
    return {
        f"rtl/{top}_axis.sv": _axis(top, edges[0], edges[-1], memories),
        "rtl/mase_skid_buffer.sv": (hw_dir() / "common" / "mase_skid_buffer.sv").read_text(),
    }


def _hex(edge: Edge, code: Code) -> str:
    """Return one beat a line, hexadecimal, sample after sample."""
    beats = edge.stream.pack(code).reshape(-1, edge.stream.bytes)
    return "".join(f"{int.from_bytes(beat.tobytes(), 'little'):0{2 * edge.stream.bytes}x}\n" for beat in beats)


def _axis(top: str, feed: Edge, give: Edge, memories: bool) -> str:
    a, b = feed.stream, give.stream
    pad_out = 8 * b.bytes - b.bits
    spare = ""
    if 8 * a.bytes > a.bits:
        spare = f"\n  logic unused_pad;\n  assign unused_pad = &{{1'b0, in_word[{8 * a.bytes - 1}:{a.bits}]}};\n"
    data = f"{{{pad_out}'b0, out_beat}}" if pad_out else "out_beat"
    parameters = '#(\n  parameter MemDir = "mem"  // folder of the memory images\n) ' if memories else ""
    passed = "#(.MemDir(MemDir)) " if memories else ""
    return f"""// AXI4-Stream wrapper of {top}: tdata padded to bytes, tlast on the last beat of a sample.
//
// A register slice on either side cuts every handshake path; each adds one cycle to the latency. flush_i empties
// them too.

`default_nettype none

module {top}_axis {parameters}(
  input  wire logic          aclk,
  input  wire logic          aresetn,
  input  wire logic          flush_i,
  output      logic          error_o,

  input  wire logic [{8 * a.bytes - 1}:0] s_axis_tdata,
  input  wire logic          s_axis_tvalid,
  output      logic          s_axis_tready,
  input  wire logic          s_axis_tlast,

  output      logic [{8 * b.bytes - 1}:0] m_axis_tdata,
  output      logic          m_axis_tvalid,
  input  wire logic          m_axis_tready,
  output      logic          m_axis_tlast
);

  logic run_q, ready, in_valid, in_ready, in_last, out_valid, out_ready, out_last;
  logic [{8 * a.bytes - 1}:0] in_word;
  logic [{b.bits - 1}:0] out_beat;

  // Reset of the slices, in the same cycles as that of the core's blocks.
  always_ff @(posedge aclk or negedge aresetn) begin
    if (!aresetn) run_q <= 1'b0;
    else run_q <= !flush_i;
  end
  assign s_axis_tready = ready && run_q;

  mase_skid_buffer #(
    .Width({8 * a.bytes + 1})
  ) u_in (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i (s_axis_tvalid),
    .in_ready_o (ready),
    .in_data_i  ({{s_axis_tlast, s_axis_tdata}}),
    .out_valid_o(in_valid),
    .out_ready_i(in_ready),
    .out_data_o ({{in_last, in_word}})
  );
{spare}
  {top} {passed}u_core (
    .clk_i      (aclk),
    .rst_ni     (aresetn),
    .flush_i    (flush_i),
    .error_o    (error_o),
    .in_valid_i (in_valid),
    .in_ready_o (in_ready),
    .in_data_i  (in_word[{a.bits - 1}:0]),
    .in_last_i  (in_last),
    .out_valid_o(out_valid),
    .out_ready_i(out_ready),
    .out_data_o (out_beat),
    .out_last_o (out_last)
  );

  mase_skid_buffer #(
    .Width({8 * b.bytes + 1})
  ) u_out (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i (out_valid),
    .in_ready_o (out_ready),
    .in_data_i  ({{out_last, {data}}}),
    .out_valid_o(m_axis_tvalid),
    .out_ready_i(m_axis_tready),
    .out_data_o ({{m_axis_tlast, m_axis_tdata}})
  );

endmodule

`default_nettype wire
"""


def _readme(manifest: Mapping[str, Any], edges: Sequence[Edge], samples: int) -> str:
    top, cycles = manifest["top"], manifest["cycles"]
    cells = [
        (f"`{e.signal}`", e.format, "x".join(map(str, e.shape)), e.stream.lanes, e.stream.beats, e.stream.bits)
        for e in edges
    ]
    rows = "".join(f"| {' | '.join(map(str, row))} |\n" for row in cells)
    feed, give = edges[0].stream, edges[-1].stream
    exponents = ""
    if feed.grid.block or give.grid.block:
        exponents = (
            "Above the elements stands, for block formats, one unsigned exponent field for each block that the beat "
            "touches.\n"
        )
    return f"""# {top}

Generated by mase. One input stream, one output stream; everything that the hardware computes is fixed here.
{readme.origin(manifest)}
- Compile the files of `files.f` in that order (SystemVerilog); the top module is `{top}`. `axis.f` has the files of
  `{top}_axis` besides, for AXI4-Stream. Module names are this design's own (`{top}__...`), so any number of
  emitted designs share a build.
- Memories are `$readmemh` files in `mem/`. A tool that does not run in this folder needs the parameter `MemDir` of the
  top: the folder that holds them, such as `-GMemDir='"/path/to/mem"'`. A simulation that cannot read one ends at
  time 0 with a fatal error.
- `sh scripts/sim.sh` runs the self-checking bench `bench/{top}__bench.sv` with Icarus (`sh scripts/sim.sh verilator`
  with Verilator 5; add `axis` for the wrapper); any simulator of SystemVerilog takes it. `sh scripts/lint.sh` lints
  with Verilator; `yosys scripts/synth.ys`, run here, synthesizes for UltraScale+.
- `{top}.core` is for FuseSoC 2: `fusesoc run mase:generated:{top}` simulates, and there are the targets `sim`,
  `lint` and `synth`. A core that depends on it gets sources and memories (file type `mem`, for vendor projects).
- `vectors/input.hex` and `vectors/output.hex` hold {samples} samples, one beat a line: feed the first,
  expect the second.
- `host.py` turns real values into beats and beats into real values; it needs numpy alone.

## Ports and registers

`clk_i`, `rst_ni` (asynchronous, active low). There are no registers to write. `flush_i` drops what is in flight and
clears `error_o`; `error_o` is sticky: `in_last_i` was not on the last beat of a sample (counters rule). A beat moves
when valid and ready are both high; data stays while stalled.

## Streams

A sample enters as {feed.beats} beats and leaves as {give.beats}. A row is the last dimension; it takes
ceil(columns / lanes) beats, rows never share a beat, unused lanes of the last beat are 0. Lane 0 is lowest:
element k of a beat is bits [k w +: w], w being its bits, with no padding between elements. In files, and on AXI, zeros
fill a beat up to whole bytes; there is no sign extension.
{exponents}
{readme.codes(edges[0], edges[-1])}
| edge | format | shape of a sample | lanes | beats | bits a beat |
|---|---|---|---|---|---|
{rows}
Cycles with a source that is always valid and a sink that is always ready, cycle 0 taking the first beat: first output
beat {cycles["first_output"]}, last output beat of sample 0 {cycles["latency"]}, one sample every {cycles["interval"]}.
{readme.clock(manifest)}
{readme.buffering(manifest)}"""
