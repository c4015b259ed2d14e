"""The AXI4-Stream wrapper of an emitted design: its text, its widths, and what its README says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from emit.design import Edge, Ends, Port
from mase.netlist import Netlist

MODULES = ("mase_reset_sync", "mase_skid_buffer", "mase_stream_resync", "mase_fifo", "mase_stream_finish")
SPELLED = 32  # bits of a constant that fit into a line
SLICES = 2  # cycles that the wrapper adds to every latency: one for the register slice on either side


def bus_bytes(edge: Edge, pad: bool) -> int:
    """Return the bytes of ``tdata``: those of a beat, or the next power of two."""
    return 1 << (edge.stream.bytes - 1).bit_length() if pad else edge.stream.bytes


def facts(netlist: Netlist, ends: Ends, pad: bool) -> dict[str, Any]:
    """Return what ``design.json`` says of the wrapper.

    Its ``marks`` are the pairs of an output and an input that it depends on: how many frames may be inside the core,
    that is, have entered whole while the first of them has not left whole; and whether a packet may leave before the
    frame's end has entered.

    Args:
        pad: as in :func:`bus_bytes`.
    """
    marks = [
        {
            "input": ends.inputs[i].name,
            "output": port.name,
            "frames_inside": netlist.frames_inside(i, out),
            "early": netlist.early(i, out),
        }
        for out, port in enumerate(ends.outputs)
        for i in netlist.sources(out)
    ]
    return {"tkeep": pad, "added_cycles": SLICES, "marks": marks}


def ports(manifest: Mapping[str, Any], ends: Ends) -> str:
    """Return the README's section on ports, the reset rule, and what ``error_o`` and ``flush_i`` do to a stream."""
    top, facts, cycles = manifest["top"], manifest["axis"], manifest["cycles"]
    core = _table(
        ("`clk_i`", "in", 1, "rising edge"),
        ("`rst_ni`", "in", 1, "reset, active low"),
        ("`flush_i`", "in", 1, "synchronous reset of the whole core"),
        ("`error_o`", "out", 1, f"sticky: {_lasts(ends)} came at another beat than the counters expect"),
        *(row for port in ends.inputs for row in _core_input(port, ends)),
        *(row for port in ends.outputs for row in _core_output(port, ends)),
    )
    axis = _table(
        ("`aclk`", "in", 1, "rising edge"),
        ("`aresetn`", "in", 1, "reset, active low"),
        ("`flush_i`", "in", 1, "drop the data in flight, see below; tie to 0 if unused"),
        ("`error_o`", "out", 1, "sticky: a frame was damaged"),
        *(row for port in ends.inputs for row in _axis_input(port, facts["tkeep"])),
        *(row for port in ends.outputs for row in _axis_output(port, facts["tkeep"])),
    )
    a, b = ends.inputs[0], ends.outputs[0]
    beats_in, beats_out = (
        f"{ports[0].stream.beats} beats" if ends.single else _each(ports) for ports in (ends.inputs, ends.outputs)
    )
    names = {
        "tlast": f"`{a.axis}_tlast`",
        "tuser": f"`{b.axis}_tuser`",
        "last": f"`{b.axis}_tlast`",
        "valid": f"`{b.axis}_tvalid`",
    }
    if not ends.single:
        names = {"tlast": "`tlast`", "tuser": "`tuser`", "last": "`tlast`", "valid": "`tvalid`"}
    late = _EARLY if any(mark["early"] for mark in facts["marks"]) else ""
    return _PORTS.format(
        top=top, core=core, axis=axis, beats_in=beats_in, beats_out=beats_out, **names,
        packet="packet" if ends.single else "packet at each output that depends on that input", late=late,
        counted=f"the first {a.stream.beats} beats count" if ends.single else "so many beats count",
        both="both ready and both valid" if ends.single else "all ready and valid",
        slice="the output slice" if ends.single else "each output slice",
        out_valid="`out_valid_o` falls" if ends.single else "all `valid_o` fall",
        first=cycles["first_output"] + SLICES, latency=cycles["latency"] + SLICES,
    )  # fmt: skip


def _lasts(ends: Ends) -> str:
    return " or ".join(f"`{port.name}_last_i`" for port in ends.inputs)


def _each(ports: Sequence[Port]) -> str:
    """Return the beats of a sample at each of some ports."""
    return ", ".join(f"{port.stream.beats} beats at `{port.name}`" for port in ports)


def _what(port: Port, ends: Ends) -> str:
    return "" if ends.single else f" of `{port.tensor}`"


def _core_input(port: Port, ends: Ends) -> list[tuple[object, ...]]:
    name = port.name
    return [
        (f"`{name}_valid_i`, `{name}_ready_o`", "in, out", 1, "a beat moves when both are high at a rising edge"),
        (f"`{name}_data_i`", "in", port.stream.bits, f"a beat{_what(port, ends)}, see Streams"),
        (f"`{name}_last_i`", "in", 1, "last beat of a sample"),
    ]


def _core_output(port: Port, ends: Ends) -> list[tuple[object, ...]]:
    name = port.name
    return [
        (f"`{name}_valid_o`, `{name}_ready_i`", "out, in", 1, "as above; data stays while stalled"),
        (f"`{name}_data_o`", "out", port.stream.bits, f"a beat{_what(port, ends)}"),
        (f"`{name}_last_o`", "out", 1, "last beat of a sample"),
    ]


def _axis_input(port: Port, keep: bool) -> list[tuple[object, ...]]:
    name, bits = port.axis, port.stream.bits
    kept = [(f"`{name}_tkeep`", "in", port.axis_bytes, _KEEP_IN.format(bytes=port.stream.bytes))] if keep else []
    return [
        (f"`{name}_tdata`", "in", 8 * port.axis_bytes, f"a beat in bits {bits - 1}:0; higher bits are ignored"),
        *kept,
        (f"`{name}_tvalid`, `{name}_tready`", "in, out", 1, "handshake"),
        (f"`{name}_tlast`", "in", 1, "ends a frame"),
    ]


def _axis_output(port: Port, keep: bool) -> list[tuple[object, ...]]:
    name, bits = port.axis, port.stream.bits
    kept = [(f"`{name}_tkeep`", "out", port.axis_bytes, _KEEP_OUT)] if keep else []
    return [
        (f"`{name}_tdata`", "out", 8 * port.axis_bytes, f"a beat in bits {bits - 1}:0; higher bits are 0"),
        *kept,
        (f"`{name}_tvalid`, `{name}_tready`", "out, in", 1, "handshake"),
        (f"`{name}_tlast`", "out", 1, "ends a packet"),
        (f"`{name}_tuser`", "out", 1, f"with `{name}_tlast`: this frame was damaged; may stay open"),
    ]


def _table(*rows: tuple[object, ...]) -> str:
    head = ("port", "direction", "bits", "meaning")
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, ("---",) * 4, *rows))


_KEEP_IN = "the lowest {bytes} must be high, else the frame is damaged; the others are not looked at"
_KEEP_OUT = "all ones (DMA engines); with the parameter `NullPadding` 1 low on the bytes above a beat"

_EARLY = """ A packet
whose values do not need the end of its frame waits for it with its last beat, which says whether all was right."""

_PORTS = """\
## Ports, reset, errors and flushes

There are no registers to write. The folder has two top modules; use one of them.

`{top}`, plain valid/ready:

{core}
`{top}_axis`, AXI4-Stream:

{axis}
**Reset.** `rst_ni` or `aresetn` may be asserted at any time, in step with the clock or not; {both}
outputs are low meanwhile. Its release may come at any time too: two flip-flops synchronise it. The first beat moves at
the fourth rising edge after it at the earliest, and begins a sample.

**Wrong frames, AXI4-Stream.** What lies between one {tlast} and the next is a frame; a right one has
{beats_in}. Every frame gives exactly one {packet} of {beats_out}, in order. If `tlast` comes early, the
missing beats are taken as zeros. If it is missing, {counted} and the rest is dropped up to and
with the beat that has `tlast`. The packet of such a frame has {tuser} high with its {last}, and
`error_o` rises; the frames after it are right.{late} With the parameter `Resync` 0 there is no repair: beats are
counted, `tlast` is only compared with the count and sets `error_o`, and a lost beat shifts all that follows until a
reset or a flush. A host without `tlast` needs `Resync` 0.

**Wrong frames, core.** As with `Resync` 0: `error_o` rises in the cycle after the wrong beat and changes nothing else.

**Flush, AXI4-Stream.** While `flush_i` is high no beat is taken. Every beat taken before is dropped, with all results
that have not left the core; `error_o` is cleared. The results that have left the core, at most two beats in {slice},
are delivered. If they end within a packet, beats of zeros complete it, and its last beat has {tuser}
high. So {valid} is never withdrawn, and every packet has {beats_out}. The first beat taken afterwards
begins a frame; a host that goes on in mid-frame gets one damaged frame, and right ones after it.

**Flush, core.** `flush_i` is a reset: no beat is taken in its cycles, everything is dropped, and {out_valid}
without a handshake in the cycle after. One cycle is enough.

The wrapper adds two cycles: first output beat {first}, last output beat of sample 0 {latency}, counted as in Streams.
"""


def wrapper(top: str, ends: Ends, facts: Mapping[str, Any], memories: bool) -> str:
    """Return the text of the wrapper.

    Args:
        facts: what :func:`facts` returned. memories: the core has the parameter ``MemDir``.
    """
    keep, names = facts["tkeep"], Wires.of(ends, facts["marks"])
    parameters = ['  parameter MemDir = "mem",  // folder of the memory images'] if memories else []
    parameters += [
        "  // 1: a frame that is too short or too long is repaired and marked; 0: beats are counted.",
        "  parameter int Resync = 1",
    ]
    if keep:
        parameters[-1] += ","
        word = "m_axis_tkeep" if ends.single else "tkeep of outputs"
        parameters += [
            f"  // 0: {word} is all ones, as DMA engines ask; 1: it is low on the bytes above a beat.",
            "  parameter int NullPadding = 0",
        ]
    inputs = [_input(port, i, names, keep) for i, port in enumerate(ends.inputs)]
    outputs = [_output(port, o, names, keep) for o, port in enumerate(ends.outputs)]
    return f"""\
{_head(top, ends, keep)}
`default_nettype none

module {top}_axis #(
{chr(10).join(parameters)}
) (
  input  wire logic          aclk,
  input  wire logic          aresetn,
  input  wire logic          flush_i,
  output      logic          error_o,

{chr(10).join(_declared(port, keep) for port in ends.all).removesuffix(f",{chr(10)}")}
);

  // What flush_i clears leaves its reset in the same cycle here and in the core, which synchronises aresetn for itself.
  // {"The output is" if len(ends.outputs) == 1 else "The outputs are"} reset by up_q, which flush_i leaves alone.
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

{chr(10).join(inputs)}
{_middle(top, ends, names, memories)}
{chr(10).join(outputs)}
endmodule

`default_nettype wire
"""


@dataclass(frozen=True)
class Mark:
    """One pair of an input and an output that depends on it, by index, and the frames that it may hold."""

    feed: int
    give: int
    frames: int
    early: bool


@dataclass(frozen=True)
class Wires:
    """Names of wires inside a wrapper: plain ones where there is one input and one output, else with indices."""

    single: bool
    marks: tuple[Mark, ...]

    @classmethod
    def of(cls, ends: Ends, marks: Sequence[Mapping[str, Any]]) -> Self:
        """Read what :func:`facts` says of the pairs."""
        ins, outs = ([port.name for port in ports] for ports in (ends.inputs, ends.outputs))
        pairs = ((ins.index(m["input"]), outs.index(m["output"]), m["frames_inside"], m["early"]) for m in marks)
        return cls(ends.single, tuple(Mark(*pair) for pair in pairs))

    def __call__(self, base: str, *indices: int) -> str:
        return base if self.single else "_".join([base, *map(str, indices)])

    def into(self, feed: int) -> list[Mark]:
        """Return the pairs of an input."""
        return [mark for mark in self.marks if mark.feed == feed]

    def out_of(self, give: int) -> list[Mark]:
        """Return the pairs of an output."""
        return [mark for mark in self.marks if mark.give == give]


def either(parts: Sequence[str], operator: str = "||") -> str:
    """Return an expression of several operands, one a line."""
    return f" {operator}\n    ".join(parts)


def _head(top: str, ends: Ends, keep: bool) -> str:
    """Return the comment that says what the wrapper does."""
    if ends.single:
        a, b = ends.inputs[0].stream, ends.outputs[0].stream
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
"""
    return f"""\
// AXI4-Stream wrapper of {top}: {_padding(keep)}, tlast on the last beat of a sample.
//
// A frame is what lies between one tlast of a stream and the next. With Resync 1, the default, every frame that comes
// in gives exactly one at each output that depends on it, whatever its length: a short one is filled up with zeros, the
// rest of a long one is dropped. tuser of an output is high with the tlast of a frame that was damaged so at any input
// that it depends on, and low on every other beat. error_o says the same of all streams: it is sticky, until reset or
// flush. With Resync 0 beats are counted, and a wrong tlast only sets error_o.
// flush_i: in its cycles no beat is taken. Beats taken before are dropped with all results that have not left the core;
// the others, two at most an output, are delivered. A packet that they leave open is completed with zeros, tuser with
// its tlast. So tvalid is never withdrawn and every packet is whole. The next beat that an input takes begins a frame.
// aresetn: asserted at any time; its release is synchronised here. tready is low and tvalid is low meanwhile.
// A register slice on each stream cuts every handshake path and adds one cycle to the latency; only flush_i reaches
// tready within a cycle.
"""


def _declared(port: Port, keep: bool) -> str:
    """Return the ports of one stream, each with a comma behind it."""
    name, bus = port.axis, 8 * port.axis_bytes
    if port.direction == "in":
        kept = f"  input  wire logic [{bus // 8 - 1}:0] {name}_tkeep,\n" if keep else ""
        return f"""\
  input  wire logic [{bus - 1}:0] {name}_tdata,
{kept}\
  input  wire logic          {name}_tvalid,
  output      logic          {name}_tready,
  input  wire logic          {name}_tlast,
"""
    kept = f"  output      logic [{bus // 8 - 1}:0] {name}_tkeep,\n" if keep else ""
    return f"""\
  output      logic [{bus - 1}:0] {name}_tdata,
{kept}\
  output      logic          {name}_tvalid,
  input  wire logic          {name}_tready,
  output      logic          {name}_tlast,
  output      logic          {name}_tuser,
"""


def _input(port: Port, i: int, names: Wires, keep: bool) -> str:
    """Return the slice of an input, and what makes frames of its beats."""
    a, axis = port.stream, port.axis

    def n(base: str) -> str:
        return names(base, i)

    return f"""\
  // Input{"" if names.single else f" {port.name}"}: slice, then frames of {a.beats} beats each.
  logic {n("host_ready")}, {n("host_bad")}, {n("beat_valid")}, {n("beat_ready")}, {n("beat_last")}, {n("beat_bad")};
  logic [{a.bits - 1}:0] {n("beat")};
  logic {n("frame_valid")}, {n("frame_ready")}, {n("frame_last")}, {n("damaged")}, {n("stream_error")};
  logic [{a.bits - 1}:0] {n("frame")};

  assign {axis}_tready = {n("host_ready")} && open;
{_spare(port, n, keep)}
  mase_skid_buffer #(
    .Width({a.bits + 2})
  ) {n("u_in")} (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i ({axis}_tvalid && open),
    .in_ready_o ({n("host_ready")}),
    .in_data_i  ({{{n("host_bad")}, {axis}_tlast, {axis}_tdata[{a.bits - 1}:0]}}),
    .out_valid_o({n("beat_valid")}),
    .out_ready_i({n("beat_ready")}),
    .out_data_o ({{{n("beat_bad")}, {n("beat_last")}, {n("beat")}}})
  );

  mase_stream_resync #(
    .Width({a.bits}),
    .Beats({a.beats}),
    .Resync(Resync)
  ) {n("u_resync")} (
    .clk_i        (aclk),
    .rst_ni       (run_q),
    .in_valid_i   ({n("beat_valid")}),
    .in_ready_o   ({n("beat_ready")}),
    .in_data_i    ({n("beat")}),
    .in_last_i    ({n("beat_last")}),
    .in_bad_i     ({n("beat_bad")}),
    .out_valid_o  ({n("frame_valid")}),
    .out_ready_i  ({n("frame_ready")}),
    .out_data_o   ({n("frame")}),
    .out_last_o   ({n("frame_last")}),
    .out_damaged_o({n("damaged")}),
    .error_o      ({n("stream_error")})
  );
"""


def _middle(top: str, ends: Ends, names: Wires, memories: bool) -> str:
    """Return the core, and the marks of the frames inside it."""
    held = f"{names.marks[0].frames} at most" if names.single else "a limited number of them"
    declared, assigned, fifos = list[str](), list[str](), list[str]()
    if not names.single:
        declared.append("  logic core_error;")
    for mark in names.marks:
        at = mark.feed, mark.give
        signals = [names(base, *at) for base in ("room", "mark_valid", "mark")]
        if names.single:
            signals += ["in_valid", "in_ready", "core_error"]
        declared.append(f"  logic {', '.join(signals)};")
        fifos.append(_marks(mark, names))
    for i in range(len(ends.inputs)):
        rooms = either([names("room", mark.feed, mark.give) for mark in names.into(i)], "&&")
        if not names.single:
            declared.append(f"  logic {names('in_valid', i)}, {names('in_ready', i)};")
        assigned.append(f"  assign {names('in_valid', i)}    = {names('frame_valid', i)} && {rooms};")
        assigned.append(f"  assign {names('frame_ready', i)} = {names('in_ready', i)} && {rooms};")
    for o, port in enumerate(ends.outputs):
        signals = [names(base, o) for base in ("out_valid", "out_ready", "out_last")]
        declared += [f"  logic {', '.join(signals)};", f"  logic [{port.stream.bits - 1}:0] {names('out_beat', o)};"]
    errors = [*(names("stream_error", i) for i in range(len(ends.inputs))), "core_error"]
    assigned.append(f"  assign error_o     = {either(errors) if len(errors) > 2 else ' || '.join(errors)};")
    wires = [("clk_i", "aclk"), ("rst_ni", "aresetn"), ("flush_i", "flush_i"), ("error_o", "core_error")]
    for i, port in enumerate(ends.inputs):
        given = [names(base, i) for base in ("in_valid", "in_ready", "frame", "frame_last")]
        wires += zip((f"{port.name}_{end}" for end in ("valid_i", "ready_o", "data_i", "last_i")), given, strict=True)
    for o, port in enumerate(ends.outputs):
        given = [names(base, o) for base in ("out_valid", "out_ready", "out_beat", "out_last")]
        wires += zip((f"{port.name}_{end}" for end in ("valid_o", "ready_i", "data_o", "last_o")), given, strict=True)
    widest = max(len(name) for name, _ in wires)
    joined = ",\n".join(f"    .{name:<{widest}}({signal})" for name, signal in wires)
    newline = "\n"
    return f"""\
  // One mark for each frame inside the core, which holds {held}: nothing waits for room.
{newline.join(declared)}

{newline.join(assigned)}

{newline.join(fifos)}
  {top} {"#(.MemDir(MemDir)) " if memories else ""}u_core (
{joined}
  );
"""


def _marks(mark: Mark, names: Wires) -> str:
    """Return what remembers which frames were damaged, until their packets leave."""
    at, i, o = (mark.feed, mark.give), mark.feed, mark.give
    return f"""\
  mase_fifo #(
    .Width(1),
    .Depth({mark.frames + 1})
  ) {names("u_marks", *at)} (
    .clk_i      (aclk),
    .rst_ni     (run_q),
    .in_valid_i (Resync != 0 && {names("in_valid", i)} && {names("in_ready", i)} && {names("frame_last", i)}),
    .in_ready_o ({names("room", *at)}),
    .in_data_i  ({names("damaged", i)}),
    .out_valid_o({names("mark_valid", *at)}),
    .out_ready_i({names("out_valid", o)} && {names("out_ready", o)} && {names("out_last", o)}),
    .out_data_o ({names("mark", *at)})
  );
"""


def _output(port: Port, o: int, names: Wires, keep: bool) -> str:
    """Return what makes packets of the results of an output, and its slice."""
    b, axis, bus = port.stream, port.axis, 8 * port.axis_bytes
    marks = names.out_of(o)
    bits = [f"{names('mark_valid', m.feed, o)} && {names('mark', m.feed, o)}" for m in marks]
    marked = bits[0] if len(bits) == 1 else either([f"({bit})" for bit in bits])

    title = "Output" if names.single else f"Output {port.name}"

    def n(base: str) -> str:
        return names(base, o)

    valid, ready, gate = n("out_valid"), n("out_ready"), ""
    if early := [names("mark_valid", m.feed, o) for m in marks if m.early]:
        valid, ready = f"{n('out_valid')} && {n('known')}", n("room_out")
        gate = f"""\
  // Values may leave before the end of their frame: the last beat of a packet waits for it.
  logic {n("known")}, {n("room_out")};
  assign {n("known")} = Resync == 0 || !{n("out_last")} || ({either(early, "&&")});
  assign {n("out_ready")} = {n("room_out")} && {n("known")};

"""
    return f"""\
  // {title}: packets of {b.beats} beats each, then a slice that flush_i leaves alone.
  logic {n("give_valid")}, {n("give_ready")}, {n("give_last")}, {n("give_user")};
  logic [{b.bits - 1}:0] {n("give")}, {n("word")};

{gate}  mase_stream_finish #(
    .Width({b.bits}),
    .Beats({b.beats})
  ) {n("u_finish")} (
    .clk_i       (aclk),
    .rst_ni      (up_q),
    .flush_i     (flush_i),
    .in_valid_i  ({valid}),
    .in_ready_o  ({ready}),
    .in_data_i   ({n("out_beat")}),
    .in_marked_i ({marked}),
    .out_valid_o ({n("give_valid")}),
    .out_ready_i ({n("give_ready")}),
    .out_data_o  ({n("give")}),
    .out_last_o  ({n("give_last")}),
    .out_marked_o({n("give_user")})
  );

  mase_skid_buffer #(
    .Width({b.bits + 2})
  ) {n("u_out")} (
    .clk_i      (aclk),
    .rst_ni     (up_q),
    .in_valid_i ({n("give_valid")}),
    .in_ready_o ({n("give_ready")}),
    .in_data_i  ({{{n("give_user")}, {n("give_last")}, {n("give")}}}),
    .out_valid_o({axis}_tvalid),
    .out_ready_i({axis}_tready),
    .out_data_o ({{{axis}_tuser, {axis}_tlast, {n("word")}}})
  );
  assign {axis}_tdata = {f"{{{bus - b.bits}'b0, {n('word')}}}" if bus > b.bits else n("word")};
{_kept(port, n("unused_null")) if keep else ""}"""


def _padding(keep: bool) -> str:
    return "tdata padded to 2^n bytes, with tkeep" if keep else "tdata padded to bytes"


def _spare(port: Port, n: Callable[[str], str], keep: bool) -> str:
    """Return what becomes of the bits of the bus above a beat, and of ``tkeep``."""
    axis, bits, kept, whole = port.axis, port.stream.bits, port.stream.bytes, port.axis_bytes
    bad = f"!(&{axis}_tkeep[{kept - 1}:0])" if keep else "1'b0"
    unused = [f"{axis}_tdata[{8 * whole - 1}:{bits}]"] if 8 * whole > bits else []
    if keep and kept < whole:
        unused.append(f"{axis}_tkeep[{whole - 1}:{kept}]")
    why = "  // A frame with a byte of a beat that is not kept is damaged.\n" if keep else ""
    text = f"{why}  assign {n('host_bad')} = {bad};\n"
    if unused:
        pad = n("unused_pad")
        text += f"  logic {pad};\n  assign {pad} = &{{1'b0, {', '.join(unused)}}};\n"
    return text


def _kept(port: Port, null: str) -> str:
    axis, used, whole = port.axis, port.stream.bytes, port.axis_bytes
    if used == whole:
        return f"  logic {null};\n  assign {null} = NullPadding != 0;\n  assign {axis}_tkeep = '1;\n"
    ones = f"{used}'b{'1' * used}" if used <= SPELLED else f"{{{used}{{1'b1}}}}"
    return f"  assign {axis}_tkeep = (NullPadding != 0) ? {{{whole - used}'b0, {ones}}} : '1;\n"
