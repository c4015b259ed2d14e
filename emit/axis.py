"""The AXI4-Stream wrapper of an emitted design: its text, its widths, and what its README says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emit.design import Edge

MODULES = ("mase_reset_sync", "mase_skid_buffer", "mase_stream_resync", "mase_fifo", "mase_stream_finish")
SLICES = 2  # cycles that the wrapper adds to every latency: one for the register slice on either side


def bus_bytes(edge: Edge, pad: bool) -> int:
    """Return the bytes of ``tdata``: those of a beat, or the next power of two."""
    return 1 << (edge.stream.bytes - 1).bit_length() if pad else edge.stream.bytes


def facts(feed: Edge, give: Edge, frames: int, pad: bool) -> dict[str, Any]:
    """Return what ``design.json`` says of the wrapper.

    Args:
        frames: that may have entered the core whole while the first of them has not left. pad: as in :func:`bus_bytes`.
    """
    return {
        "s_axis_bytes": bus_bytes(feed, pad),
        "m_axis_bytes": bus_bytes(give, pad),
        "tkeep": pad,
        "frames_inside": frames,
        "added_cycles": SLICES,
    }


def ports(manifest: Mapping[str, Any]) -> str:
    """Return the README's section on ports, the reset rule, and what ``error_o`` and ``flush_i`` do to a stream."""
    top, first, last = manifest["top"], manifest["edges"][0], manifest["edges"][-1]
    facts, cycles = manifest["axis"], manifest["cycles"]
    core = _table(
        ("`clk_i`", "in", 1, "rising edge"),
        ("`rst_ni`", "in", 1, "reset, active low"),
        ("`flush_i`", "in", 1, "synchronous reset of the whole core"),
        ("`error_o`", "out", 1, "sticky: `in_last_i` came at another beat than the counters expect"),
        ("`in_valid_i`, `in_ready_o`", "in, out", 1, "a beat moves when both are high at a rising edge"),
        ("`in_data_i`", "in", first["beat_bits"], "a beat, see Streams"),
        ("`in_last_i`", "in", 1, "last beat of a sample"),
        ("`out_valid_o`, `out_ready_i`", "out, in", 1, "as above; data stays while stalled"),
        ("`out_data_o`", "out", last["beat_bits"], "a beat"),
        ("`out_last_o`", "out", 1, "last beat of a sample"),
    )
    bits_in, bits_out = 8 * facts["s_axis_bytes"], 8 * facts["m_axis_bytes"]
    keep_in = [("`s_axis_tkeep`", "in", bits_in // 8, _KEEP_IN.format(bytes=first["beat_bytes"]))]
    keep_out = [("`m_axis_tkeep`", "out", bits_out // 8, _KEEP_OUT)]
    axis = _table(
        ("`aclk`", "in", 1, "rising edge"),
        ("`aresetn`", "in", 1, "reset, active low"),
        ("`flush_i`", "in", 1, "drop the data in flight, see below; tie to 0 if unused"),
        ("`error_o`", "out", 1, "sticky: a frame was damaged"),
        ("`s_axis_tdata`", "in", bits_in, f"a beat in bits {first['beat_bits'] - 1}:0; higher bits are ignored"),
        *(keep_in if facts["tkeep"] else []),
        ("`s_axis_tvalid`, `s_axis_tready`", "in, out", 1, "handshake"),
        ("`s_axis_tlast`", "in", 1, "ends a frame"),
        ("`m_axis_tdata`", "out", bits_out, f"a beat in bits {last['beat_bits'] - 1}:0; higher bits are 0"),
        *(keep_out if facts["tkeep"] else []),
        ("`m_axis_tvalid`, `m_axis_tready`", "out, in", 1, "handshake"),
        ("`m_axis_tlast`", "out", 1, "ends a packet"),
        ("`m_axis_tuser`", "out", 1, "with `m_axis_tlast`: this frame was damaged; may stay open"),
    )
    return _PORTS.format(
        top=top, core=core, axis=axis, beats_in=first["beats"], beats_out=last["beats"],
        first=cycles["first_output"] + SLICES, latency=cycles["latency"] + SLICES,
    )  # fmt: skip


def _table(*rows: tuple[object, ...]) -> str:
    head = ("port", "direction", "bits", "meaning")
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, ("---",) * 4, *rows))


_KEEP_IN = "the lowest {bytes} must be high, else the frame is damaged; the others are not looked at"
_KEEP_OUT = "all ones (DMA engines); with the parameter `NullPadding` 1 low on the bytes above a beat"

_PORTS = """\
## Ports, reset, errors and flushes

There are no registers to write. The folder has two top modules; use one of them.

`{top}`, plain valid/ready:

{core}
`{top}_axis`, AXI4-Stream:

{axis}
**Reset.** `rst_ni` or `aresetn` may be asserted at any time, in step with the clock or not; both ready and both valid
outputs are low meanwhile. Its release may come at any time too: two flip-flops synchronise it. The first beat moves at
the fourth rising edge after it at the earliest, and begins a sample.

**Wrong frames, AXI4-Stream.** What lies between one `s_axis_tlast` and the next is a frame; a right one has
{beats_in} beats. Every frame gives exactly one packet of {beats_out} beats, in order. If `tlast` comes early, the
missing beats are taken as zeros. If it is missing, the first {beats_in} beats count and the rest is dropped up to and
with the beat that has `tlast`. The packet of such a frame has `m_axis_tuser` high with its `m_axis_tlast`, and
`error_o` rises; the frames after it are right. With the parameter `Resync` 0 there is no repair: beats are counted,
`tlast` is only compared with the count and sets `error_o`, and a lost beat shifts all that follows until a reset or a
flush. A host without `tlast` needs `Resync` 0.

**Wrong frames, core.** As with `Resync` 0: `error_o` rises in the cycle after the wrong beat and changes nothing else.

**Flush, AXI4-Stream.** While `flush_i` is high no beat is taken. Every beat taken before is dropped, with all results
that have not left the core; `error_o` is cleared. The results that have left the core, at most two beats in the output
slice, are delivered. If they end within a packet, beats of zeros complete it, and its last beat has `m_axis_tuser`
high. So `m_axis_tvalid` is never withdrawn, and every packet has {beats_out} beats. The first beat taken afterwards
begins a frame; a host that goes on in mid-frame gets one damaged frame, and right ones after it.

**Flush, core.** `flush_i` is a reset: no beat is taken in its cycles, everything is dropped, and `out_valid_o` falls
without a handshake in the cycle after. One cycle is enough.

The wrapper adds two cycles: first output beat {first}, last output beat of sample 0 {latency}, counted as in Streams.
"""


def wrapper(top: str, feed: Edge, give: Edge, axis: Mapping[str, Any], memories: bool) -> str:
    """Return the text of the wrapper.

    Args:
        axis: what :func:`facts` returned. memories: the core has the parameter ``MemDir``.
    """
    a, b = feed.stream, give.stream
    bus_in, bus_out, keep = 8 * axis["s_axis_bytes"], 8 * axis["m_axis_bytes"], axis["tkeep"]
    parameters = ['  parameter MemDir = "mem",  // folder of the memory images'] if memories else []
    parameters += [
        "  // 1: a frame that is too short or too long is repaired and marked; 0: beats are counted.",
        "  parameter int Resync = 1",
    ]
    if keep:
        parameters[-1] += ","
        parameters += [
            "  // 0: m_axis_tkeep is all ones, as DMA engines ask; 1: it is low on the bytes above a beat.",
            "  parameter int NullPadding = 0",
        ]
    return f"""\
// AXI4-Stream wrapper of {top}: {_padding(keep)}, tlast on the last beat of a sample.
//
// A frame is what lies between one tlast and the next; {a.beats} beats come in, {b.beats} go out. With Resync 1, the
// default, every frame that comes in gives exactly one that goes out, whatever its length: a short one is filled up
// with zeros, the rest of a long one is dropped. m_axis_tuser is high with the tlast of a frame that was damaged so,
// and low on every other beat. error_o says the same of the whole stream: it is sticky, until reset or flush. With
// Resync 0 beats are counted, and a wrong tlast only sets error_o.
// flush_i: in its cycles no beat is taken. Beats taken before are dropped with all results that have not left the core;
// the others, two at most, are delivered. A packet that they leave open is completed with zeros, tuser with its tlast.
// So m_axis_tvalid is never withdrawn and every packet has {b.beats} beats. The next beat taken begins a frame.
// aresetn: asserted at any time; its release is synchronised here. tready is low and tvalid is low meanwhile.
// A register slice on either side cuts every handshake path and adds one cycle to the latency; only flush_i reaches
// s_axis_tready within a cycle.

`default_nettype none

module {top}_axis #(
{chr(10).join(parameters)}
) (
  input  wire logic          aclk,
  input  wire logic          aresetn,
  input  wire logic          flush_i,
  output      logic          error_o,

  input  wire logic [{bus_in - 1}:0] s_axis_tdata,
{f"  input  wire logic [{bus_in // 8 - 1}:0] s_axis_tkeep,{chr(10)}" if keep else ""}\
  input  wire logic          s_axis_tvalid,
  output      logic          s_axis_tready,
  input  wire logic          s_axis_tlast,

  output      logic [{bus_out - 1}:0] m_axis_tdata,
{f"  output      logic [{bus_out // 8 - 1}:0] m_axis_tkeep,{chr(10)}" if keep else ""}\
  output      logic          m_axis_tvalid,
  input  wire logic          m_axis_tready,
  output      logic          m_axis_tlast,
  output      logic          m_axis_tuser
);

  // What flush_i clears leaves its reset in the same cycle here and in the core, which synchronises aresetn for itself.
  // The output is reset by up_q, which flush_i leaves alone.
  logic reset_n, up_q, run_q, open;

  mase_reset_sync u_reset (
    .clk_i (aclk),
    .rst_ni(aresetn),
    .rst_no(reset_n)
  );

  always_ff @(posedge aclk or negedge aresetn) begin
    if (!aresetn) begin
      up_q  <= 1'b0;
      run_q <= 1'b0;
    end else begin
      up_q  <= reset_n;
      run_q <= reset_n && !flush_i;
    end
  end
  assign open = run_q && !flush_i;

  // Input: slice, then frames of {a.beats} beats each.
  logic host_ready, host_bad, beat_valid, beat_ready, beat_last, beat_bad;
  logic [{a.bits - 1}:0] beat;
  logic frame_valid, frame_ready, frame_last, damaged, stream_error;
  logic [{a.bits - 1}:0] frame;

  assign s_axis_tready = host_ready && open;
{_spare(a.bits, bus_in, a.bytes if keep else 0)}
  mase_skid_buffer #(
    .Width({a.bits + 2})
  ) u_in (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i (s_axis_tvalid && open),
    .in_ready_o (host_ready),
    .in_data_i  ({{host_bad, s_axis_tlast, s_axis_tdata[{a.bits - 1}:0]}}),
    .out_valid_o(beat_valid),
    .out_ready_i(beat_ready),
    .out_data_o ({{beat_bad, beat_last, beat}})
  );

  mase_stream_resync #(
    .Width({a.bits}),
    .Beats({a.beats}),
    .Resync(Resync)
  ) u_resync (
    .clk_i        (aclk),
    .rst_ni       (run_q),
    .in_valid_i   (beat_valid),
    .in_ready_o   (beat_ready),
    .in_data_i    (beat),
    .in_last_i    (beat_last),
    .in_bad_i     (beat_bad),
    .out_valid_o  (frame_valid),
    .out_ready_i  (frame_ready),
    .out_data_o   (frame),
    .out_last_o   (frame_last),
    .out_damaged_o(damaged),
    .error_o      (stream_error)
  );

  // One mark for each frame inside the core, which holds {axis["frames_inside"]} at most: nothing waits for room.
  logic room, mark_valid, mark, in_valid, in_ready, core_error;
  logic out_valid, out_ready, out_last;
  logic [{b.bits - 1}:0] out_beat;

  assign in_valid    = frame_valid && room;
  assign frame_ready = in_ready && room;
  assign error_o     = stream_error || core_error;

  mase_fifo #(
    .Width(1),
    .Depth({axis["frames_inside"] + 1})
  ) u_marks (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i (in_valid && in_ready && frame_last),
    .in_ready_o (room),
    .in_data_i  (damaged),
    .out_valid_o(mark_valid),
    .out_ready_i(out_valid && out_ready && out_last),
    .out_data_o (mark)
  );

  {top} {"#(.MemDir(MemDir)) " if memories else ""}u_core (
    .clk_i      (aclk),
    .rst_ni     (aresetn),
    .flush_i    (flush_i),
    .error_o    (core_error),
    .in_valid_i (in_valid),
    .in_ready_o (in_ready),
    .in_data_i  (frame),
    .in_last_i  (frame_last),
    .out_valid_o(out_valid),
    .out_ready_i(out_ready),
    .out_data_o (out_beat),
    .out_last_o (out_last)
  );

  // Output: packets of {b.beats} beats each, then a slice that flush_i leaves alone.
  logic give_valid, give_ready, give_last, give_user;
  logic [{b.bits - 1}:0] give, word;

  mase_stream_finish #(
    .Width({b.bits}),
    .Beats({b.beats})
  ) u_finish (
    .clk_i       (aclk),
    .rst_ni      (up_q),
    .flush_i     (flush_i),
    .in_valid_i  (out_valid),
    .in_ready_o  (out_ready),
    .in_data_i   (out_beat),
    .in_marked_i (mark_valid && mark),
    .out_valid_o (give_valid),
    .out_ready_i (give_ready),
    .out_data_o  (give),
    .out_last_o  (give_last),
    .out_marked_o(give_user)
  );

  mase_skid_buffer #(
    .Width({b.bits + 2})
  ) u_out (
    .clk_i      (aclk),
    .rst_ni     (up_q),
    .in_valid_i (give_valid),
    .in_ready_o (give_ready),
    .in_data_i  ({{give_user, give_last, give}}),
    .out_valid_o(m_axis_tvalid),
    .out_ready_i(m_axis_tready),
    .out_data_o ({{m_axis_tuser, m_axis_tlast, word}})
  );
  assign m_axis_tdata = {f"{{{bus_out - b.bits}'b0, word}}" if bus_out > b.bits else "word"};
{_kept(b.bytes, bus_out // 8) if keep else ""}
endmodule

`default_nettype wire
"""


def _padding(keep: bool) -> str:
    return "tdata padded to 2^n bytes, with tkeep" if keep else "tdata padded to bytes"


def _spare(bits: int, bus: int, kept: int) -> str:
    """Return what becomes of the bits of the bus above a beat, and of ``tkeep`` on ``kept`` bytes (0: no ``tkeep``)."""
    bad = f"!(&s_axis_tkeep[{kept - 1}:0])" if kept else "1'b0"
    unused = [f"s_axis_tdata[{bus - 1}:{bits}]"] if bus > bits else []
    if kept and kept < bus // 8:
        unused.append(f"s_axis_tkeep[{bus // 8 - 1}:{kept}]")
    why = "  // A frame with a byte of a beat that is not kept is damaged.\n" if kept else ""
    text = f"{why}  assign host_bad = {bad};\n"
    if unused:
        text += f"  logic unused_pad;\n  assign unused_pad = &{{1'b0, {', '.join(unused)}}};\n"
    return text


def _kept(used: int, whole: int) -> str:
    if used == whole:
        return "  logic unused_null;\n  assign unused_null = NullPadding != 0;\n  assign m_axis_tkeep = '1;\n"
    null = f"{{{whole - used}'b0, {used}'b{'1' * used}}}"
    return f"  assign m_axis_tkeep = (NullPadding != 0) ? {null} : '1;\n"
