"""A self-checking bench in plain SystemVerilog: the vectors of the folder, without pauses and with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emit.design import Ends, Port


def bench(manifest: Mapping[str, Any], ends: Ends, files: Mapping[str, Port], samples: int) -> str:
    """Return the text of the bench, whose size does not depend on the number of weights.

    Args:
        files: ports by the file that holds their vectors. samples: that each file holds.
    """
    cycles, memories, keep = manifest["cycles"]["outputs"], bool(manifest["memories"]), manifest["axis"]["tkeep"]
    vectors = {port.name: file.removeprefix("vectors/") for file, port in files.items()}
    feeds = [_side(port, f"in{i}", vectors, ends, i) for i, port in enumerate(ends.inputs)]
    gives = [
        _side(port, f"out{i}", vectors, ends, i + len(feeds)) | _due(cycles[port.name])
        for i, port in enumerate(ends.outputs)
    ]
    values = {
        "TOP": manifest["top"],
        "FED": _named(f"vectors/{vectors[port.name]}" for port in ends.inputs),
        "GIVEN": _named(f"vectors/{vectors[port.name]}" for port in ends.outputs),
        "MEMDIR": '  parameter     MemDir = "mem",\n' if memories else "",
        "MEMORIES": " #(.MemDir(MemDir))" if memories else "",
        "SAMPLES": samples,
        "SLOWEST": manifest["cycles"]["latency"],
        "SIZES": _each(_SIZES, feeds + gives) + _each(_CYCLES, gives),
        "WIRES": _each(_WIRES, feeds + gives) + _each(_HELD, gives),
        "BUSES": _each(_BUSES, gives) + (_each("    logic [@N@Bus/8-1:0] @n@_keep;\n", gives) if keep else ""),
        "AXIS": _joined(_AXIS_IN + _KEEP_IN * keep, feeds) + "," + _joined(_AXIS_OUT + _KEEP_OUT * keep, gives),
        "BAD": "".join(
            f" ||\n                   {text}" for text in _list(_BAD.replace("@KEPT@", _KEPT * keep), gives)
        ),
        "TAKEN": _each(_TAKEN, gives),
        "CORE": _joined(_CORE_IN, feeds) + "," + _joined(_CORE_OUT, gives),
        "LOADS": _each(_LOAD, feeds + gives),
        "STILL": _each("    @n@_valid = 1'b0;\n    @n@_moved = 1'b0;\n", feeds)
        + _each("    @n@_ready = 1'b0;\n", gives),
        "DRIVES": _each(_DRIVE_IN, feeds) + _each(_DRIVE_OUT, gives),
        "ZEROS": _each("    @n@_count = 0;\n", feeds + gives) + _each("    @n@_held  = 1'b0;\n", gives),
        "LOOKS": _each(_LOOK_IN, feeds) + _each(_LOOK_OUT, gives),
        "ANY_FED": " ||\n          ".join(_list("@n@_moved", feeds)),
        "ANY": " ||\n          ".join(_list("@n@_moved", feeds + gives)),
        "ALL": " &&\n          ".join(_list("@n@_count == 2 * @N@All", gives)),
        "SUM_IN": " +\n          ".join(_list("@n@_count", feeds)),
        "SUM_OUT": " +\n          ".join(_list("@n@_count", gives)),
        "TASKS": "\n".join(_list(_TASKS, gives)),
    }
    text = _BENCH
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


Side = Mapping[str, object]


def _side(port: Port, stem: str, vectors: Mapping[str, str], ends: Ends, index: int) -> dict[str, object]:
    """Return what stands for one stream in the templates."""
    low = 5 * index % 27  # of the noise, which has 32 bits
    return {
        "n": stem, "N": stem.capitalize(), "port": port.name, "axis": port.axis, "file": vectors[port.name],
        "beats": port.stream.beats, "bits": port.stream.bits, "bus": 8 * port.axis_bytes,
        "noise": f"noise[{low + 1}:{low}]", "label": "" if ends.single else f"{port.name}: ",
    }  # fmt: skip


def _due(found: Mapping[str, Any]) -> dict[str, object]:
    return {"first": found["first_output"], "latency": found["latency"]}


def _list(template: str, sides: Sequence[Side]) -> list[str]:
    out = []
    for side in sides:
        text = template
        for name, value in side.items():
            text = text.replace(f"@{name}@", str(value))
        out.append(text)
    return out


def _each(template: str, sides: Sequence[Side]) -> str:
    return "".join(_list(template, sides))


def _joined(template: str, sides: Sequence[Side]) -> str:
    return ",".join(_list(template, sides))


def _named(names: Iterable[str]) -> str:
    return ",\n// ".join(names)


_SIZES = """\
  localparam int @N@Beats = @beats@;
  localparam int @N@Bits = @bits@;
  localparam int @N@Bus = @bus@;
  localparam int @N@All = Samples * @N@Beats;
"""
_CYCLES = """\
  localparam int @N@First = @first@;      // cycle of the first output beat; cycle 0 takes the first input beat
  localparam int @N@Latency = @latency@;  // cycle of the last output beat of sample 0
"""
_WIRES = """\
  logic @n@_valid, @n@_ready, @n@_last, @n@_moved;
  logic [@N@Bits-1:0] @n@_data;
  logic [@N@Bus-1:0] @n@_word, @n@_words [@N@All];
  int @n@_count;  // beats that moved
"""
_HELD = """\
  logic @n@_held, @n@_held_last;
  logic [@N@Bits-1:0] @n@_held_data;
"""
_BUSES = """\
    logic [@N@Bus-1:0] @n@_bus, @n@_unused;
    logic @n@_user;
"""
_AXIS_IN = """
      .@axis@_tdata (@N@Bus'(@n@_data)),
      .@axis@_tvalid(@n@_valid),
      .@axis@_tready(@n@_ready),
      .@axis@_tlast (@n@_last)"""
_KEEP_IN = """,
      .@axis@_tkeep ({@N@Bus/8{1'b1}})"""
_AXIS_OUT = """
      .@axis@_tdata (@n@_bus),
      .@axis@_tvalid(@n@_valid),
      .@axis@_tready(@n@_ready),
      .@axis@_tlast (@n@_last),
      .@axis@_tuser (@n@_user)"""
_KEEP_OUT = """,
      .@axis@_tkeep (@n@_keep)"""
_BAD = "(@n@_valid && (@n@_user@KEPT@))"
_KEPT = " || !(&@n@_keep)"
_TAKEN = """\
    assign @n@_data = @n@_bus[@N@Bits-1:0];
    assign @n@_unused = @n@_bus;
"""
_CORE_IN = """
      .@port@_valid_i(@n@_valid),
      .@port@_ready_o(@n@_ready),
      .@port@_data_i (@n@_data),
      .@port@_last_i (@n@_last)"""
_CORE_OUT = """
      .@port@_valid_o(@n@_valid),
      .@port@_ready_i(@n@_ready),
      .@port@_data_o (@n@_data),
      .@port@_last_o (@n@_last)"""
_LOAD = """\
    file = $fopen({VectorDir, "/@file@"}, "r");
    if (file == 0) $fatal(1, "FAIL: %s/@file@: cannot be opened", VectorDir);
    for (int i = 0; i < @N@All; i++) begin
      if ($fscanf(file, "%h", @n@_word) != 1)
        $fatal(1, "FAIL: %s/@file@: has %0d of %0d beats", VectorDir, i, @N@All);
      @n@_words[i] = @n@_word;
    end
    $fclose(file);
"""
_DRIVE_IN = """\
      if (!@n@_valid || @n@_moved)
        @n@_valid = @n@_count < 2 * @N@All && (@n@_count < @N@All || @noise@ != 2'd0);
      @n@_data = @n@_words[@n@_count%@N@All][@N@Bits-1:0];
      @n@_last = @n@_count % @N@Beats == @N@Beats - 1;
"""
_DRIVE_OUT = """\
      @n@_ready = @n@_count < @N@All || @noise@ == 2'd0;
"""
_LOOK_IN = """\
      @n@_moved = @n@_valid && @n@_ready === 1'b1;
      if (@n@_moved) @n@_count++;
"""
_LOOK_OUT = """\
      if (@n@_held &&
          (@n@_valid !== 1'b1 || @n@_data !== @n@_held_data || @n@_last !== @n@_held_last))
        @n@_wrong("the output changed while it waited");
      @n@_moved     = @n@_valid === 1'b1 && @n@_ready;
      @n@_held      = @n@_valid === 1'b1 && !@n@_ready;
      @n@_held_data = @n@_data;
      @n@_held_last = @n@_last;
      if (@n@_moved) @n@_take;
      else if (@n@_valid !== 1'b0 && !@n@_held) @n@_wrong("out_valid is unknown");
"""
_TASKS = """\
  task automatic @n@_take;
    if (@n@_count >= 2 * @N@All) begin
      @n@_wrong("a beat that nobody asked for");
    end else begin
      if (@n@_data !== @n@_words[@n@_count%@N@All][@N@Bits-1:0]) begin
        @n@_wrong("data");
        $display("  expected %h, found %h", @n@_words[@n@_count%@N@All][@N@Bits-1:0], @n@_data);
      end
      if (@n@_last !== (@n@_count % @N@Beats == @N@Beats - 1)) @n@_wrong("last");
      if (!Axis && @n@_count == 0 && cycle - start != @N@First) @n@_wrong("cycle of the first output beat");
      if (!Axis && @n@_count == @N@Beats - 1 && cycle - start != @N@Latency) @n@_wrong("latency");
    end
    @n@_count++;
  endtask

  task automatic @n@_wrong(input logic [40*8-1:0] what);
    $display("FAIL: @label@output beat %0d of sample %0d, cycle %0d: %0s",
             @n@_count % @N@Beats, @n@_count / @N@Beats % Samples, cycle - start, what);
    wrong;
  endtask
"""

_BENCH = r"""// Self-checking bench of @TOP@, for any simulator of SystemVerilog.
//
// It feeds @FED@
// without a pause and then again with pauses on all sides, and compares every beat with
// @GIVEN@.
// Without the AXI wrapper it also checks the cycles of the first sample. It prints PASS and ends, or ends with $fatal,
// so that the exit code says it too. scripts/sim.sh runs it.

`default_nettype none

module @TOP@__bench #(
  parameter bit Axis = 1'b0,       // 1: through the AXI4-Stream wrapper
@MEMDIR@  parameter     VectorDir = "vectors",
  parameter bit Finish = 1'b1      // 0: raise done_o instead of $finish, for several benches side by side
) (
  output logic done_o
);

  localparam int Samples = @SAMPLES@;
@SIZES@  localparam int Patience = 2 * @SLOWEST@ + 1000;  // cycles without any beat
  localparam int Calm = 40;  // cycles after the last beat in which none may follow

  logic clk, rst_n, error, started;
@WIRES@  logic [31:0] noise;
  int cycle, start, idle, errors, file;

  // ---- the design ------------------------------------------------------------------------------------------------

  if (Axis) begin : gen_axis
    logic core_error;
@BUSES@    @TOP@_axis@MEMORIES@ u_dut (
      .aclk         (clk),
      .aresetn      (rst_n),
      .flush_i      (1'b0),
      .error_o      (core_error),@AXIS@
    );
    assign error = core_error@BAD@;
@TAKEN@  end else begin : gen_core
    @TOP@@MEMORIES@ u_dut (
      .clk_i      (clk),
      .rst_ni     (rst_n),
      .flush_i    (1'b0),
      .error_o    (error),@CORE@
    );
  end

  // ---- vectors, clock, reset -------------------------------------------------------------------------------------

  initial begin
@LOADS@    rst_n = 1'b0;
    clk = 1'b0;
    for (int i = 0; i < 8; i++) #5 clk = !clk;
    rst_n = 1'b1;
    forever #5 clk = !clk;
  end

  // ---- drive at the falling edge, look at the rising one ---------------------------------------------------------

  initial begin
@STILL@    noise     = 32'h2545_f491;
    wait (rst_n);
    forever begin
      @(negedge clk);
      noise = noise ^ (noise << 13);
      noise = noise ^ (noise >> 17);
      noise = noise ^ (noise << 5);
@DRIVES@    end
  end

  initial begin
@ZEROS@    cycle   = 0;
    start   = 0;
    started = 1'b0;
    idle    = 0;
    errors  = 0;
    done_o  = 1'b0;
    wait (rst_n);
    forever begin
      @(posedge clk);
      if (error !== 1'b0) begin
        $display("FAIL: cycle %0d: error_o is not 0", cycle - start);
        wrong;
      end
@LOOKS@      if (!started && (@ANY_FED@)) begin
        started = 1'b1;
        start   = cycle;
      end
      idle = (@ANY@) ? 0 : idle + 1;
      if (@ALL@) begin
        if (idle == Calm) report;
      end else if (idle == Patience) begin
        $fatal(1, "FAIL: nothing moves after %0d input and %0d output beats", @SUM_IN@, @SUM_OUT@);
      end
      cycle++;
    end
  end

@TASKS@
  task automatic wrong;
    errors++;
    if (errors == 8) $fatal(1, "FAIL: 8 mistakes");
  endtask

  task automatic report;
    if (errors != 0) $fatal(1, "FAIL: %0d mistakes in %0d beats", errors, @SUM_OUT@);
    $display("PASS: @TOP@: %0d beats in, %0d beats out", @SUM_IN@, @SUM_OUT@);
    done_o = 1'b1;
    if (Finish) $finish;
  endtask

endmodule

`default_nettype wire
"""
