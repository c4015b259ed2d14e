"""A self-checking bench in plain SystemVerilog: the vectors of the folder, without pauses and with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emit.design import Edge


def bench(manifest: Mapping[str, Any], feed: Edge, give: Edge, samples: int) -> str:
    """Return the text of the bench, whose size does not depend on the number of weights."""
    cycles, memories = manifest["cycles"], bool(manifest["memories"])
    values = {
        "TOP": manifest["top"],
        "MEMDIR": '  parameter     MemDir = "mem",\n' if memories else "",
        "MEMORIES": " #(.MemDir(MemDir))" if memories else "",
        "SAMPLES": samples,
        "IN_BEATS": feed.stream.beats,
        "OUT_BEATS": give.stream.beats,
        "IN_BITS": feed.stream.bits,
        "OUT_BITS": give.stream.bits,
        "IN_BUS": 8 * manifest["axis"]["s_axis_bytes"],
        "OUT_BUS": 8 * manifest["axis"]["m_axis_bytes"],
        "KEEP_IN": "      .s_axis_tkeep ({InBus/8{1'b1}}),\n" if manifest["axis"]["tkeep"] else "",
        "KEEP_OUT": "      .m_axis_tkeep (keep),\n" if manifest["axis"]["tkeep"] else "",
        "USE": " || !(&keep)" if manifest["axis"]["tkeep"] else "",
        "KEPT": "    logic [OutBus/8-1:0] keep;\n" if manifest["axis"]["tkeep"] else "",
        "FIRST": cycles["first_output"],
        "LATENCY": cycles["latency"],
    }
    text = _BENCH
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


_BENCH = r"""// Self-checking bench of @TOP@, for any simulator of SystemVerilog.
//
// It feeds vectors/input.hex without a pause and then again with pauses on both sides, and compares every beat with
// vectors/output.hex. Without the AXI wrapper it also checks the cycles of the first sample. It prints PASS and
// ends, or ends with $fatal, so that the exit code says it too. scripts/sim.sh runs it.

`default_nettype none

module @TOP@__bench #(
  parameter bit Axis = 1'b0,       // 1: through the AXI4-Stream wrapper
@MEMDIR@  parameter     VectorDir = "vectors",
  parameter bit Finish = 1'b1      // 0: raise done_o instead of $finish, for several benches side by side
) (
  output logic done_o
);

  localparam int Samples = @SAMPLES@;
  localparam int InBeats = @IN_BEATS@;
  localparam int OutBeats = @OUT_BEATS@;
  localparam int InBits = @IN_BITS@;
  localparam int OutBits = @OUT_BITS@;
  localparam int InBus = @IN_BUS@;
  localparam int OutBus = @OUT_BUS@;
  localparam int First = @FIRST@;      // cycle of the first output beat; cycle 0 takes the first input beat
  localparam int Latency = @LATENCY@;  // cycle of the last output beat of sample 0
  localparam int Feed = Samples * InBeats;
  localparam int Give = Samples * OutBeats;
  localparam int Patience = 2 * Latency + 1000;  // cycles without any beat
  localparam int Calm = 40;                      // cycles after the last beat in which none may follow

  logic clk, rst_n, error;
  logic in_valid, in_ready, in_last, in_moved;
  logic out_valid, out_ready, out_last, out_moved, out_held, held_last;
  logic [InBits-1:0] in_data;
  logic [OutBits-1:0] out_data, held_data;
  logic [InBus-1:0] in_word, feed [Feed];
  logic [OutBus-1:0] out_word, give [Give];
  logic [31:0] noise;
  int fed, given, cycle, start, idle, errors, file;

  // ---- the design ------------------------------------------------------------------------------------------------

  if (Axis) begin : gen_axis
    logic [OutBus-1:0] bus, unused;
    logic user, core_error;
@KEPT@    @TOP@_axis@MEMORIES@ u_dut (
      .aclk         (clk),
      .aresetn      (rst_n),
      .flush_i      (1'b0),
      .error_o      (core_error),
      .s_axis_tdata (InBus'(in_data)),
@KEEP_IN@      .s_axis_tvalid(in_valid),
      .s_axis_tready(in_ready),
      .s_axis_tlast (in_last),
      .m_axis_tdata (bus),
@KEEP_OUT@      .m_axis_tvalid(out_valid),
      .m_axis_tready(out_ready),
      .m_axis_tlast (out_last),
      .m_axis_tuser (user)
    );
    assign error = core_error || (out_valid && (user@USE@));
    assign out_data = bus[OutBits-1:0];
    assign unused = bus;
  end else begin : gen_core
    @TOP@@MEMORIES@ u_dut (
      .clk_i      (clk),
      .rst_ni     (rst_n),
      .flush_i    (1'b0),
      .error_o    (error),
      .in_valid_i (in_valid),
      .in_ready_o (in_ready),
      .in_data_i  (in_data),
      .in_last_i  (in_last),
      .out_valid_o(out_valid),
      .out_ready_i(out_ready),
      .out_data_o (out_data),
      .out_last_o (out_last)
    );
  end

  // ---- vectors, clock, reset -------------------------------------------------------------------------------------

  initial begin
    file = $fopen({VectorDir, "/input.hex"}, "r");
    if (file == 0) $fatal(1, "FAIL: %s/input.hex: cannot be opened", VectorDir);
    for (int i = 0; i < Feed; i++) begin
      if ($fscanf(file, "%h", in_word) != 1)
        $fatal(1, "FAIL: %s/input.hex: has %0d of %0d beats", VectorDir, i, Feed);
      feed[i] = in_word;
    end
    $fclose(file);
    file = $fopen({VectorDir, "/output.hex"}, "r");
    if (file == 0) $fatal(1, "FAIL: %s/output.hex: cannot be opened", VectorDir);
    for (int i = 0; i < Give; i++) begin
      if ($fscanf(file, "%h", out_word) != 1)
        $fatal(1, "FAIL: %s/output.hex: has %0d of %0d beats", VectorDir, i, Give);
      give[i] = out_word;
    end
    $fclose(file);
    rst_n = 1'b0;
    clk = 1'b0;
    for (int i = 0; i < 8; i++) #5 clk = !clk;
    rst_n = 1'b1;
    forever #5 clk = !clk;
  end

  // ---- drive at the falling edge, look at the rising one ---------------------------------------------------------

  initial begin
    in_valid  = 1'b0;
    out_ready = 1'b0;
    in_moved  = 1'b0;
    noise     = 32'h2545_f491;
    wait (rst_n);
    forever begin
      @(negedge clk);
      noise = noise ^ (noise << 13);
      noise = noise ^ (noise >> 17);
      noise = noise ^ (noise << 5);
      if (!in_valid || in_moved) in_valid = fed < 2 * Feed && (fed < Feed || noise[1:0] != 2'd0);
      out_ready = given < Give || noise[4:3] == 2'd0;
      in_data   = feed[fed%Feed][InBits-1:0];
      in_last   = fed % InBeats == InBeats - 1;
    end
  end

  initial begin
    fed      = 0;
    given    = 0;
    cycle    = 0;
    start    = 0;
    idle     = 0;
    errors   = 0;
    out_held = 1'b0;
    done_o   = 1'b0;
    wait (rst_n);
    forever begin
      @(posedge clk);
      if (error !== 1'b0) wrong("error_o is not 0");
      if (out_held && (out_valid !== 1'b1 || out_data !== held_data || out_last !== held_last))
        wrong("the output changed while it waited");
      in_moved  = in_valid && in_ready === 1'b1;
      out_moved = out_valid === 1'b1 && out_ready;
      out_held  = out_valid === 1'b1 && !out_ready;
      held_data = out_data;
      held_last = out_last;
      if (in_moved) begin
        if (fed == 0) start = cycle;
        fed++;
      end
      if (out_moved) take;
      else if (out_valid !== 1'b0 && !out_held) wrong("out_valid is unknown");
      idle = (in_moved || out_moved) ? 0 : idle + 1;
      if (given == 2 * Give && idle == Calm) report;
      if (given < 2 * Give && idle == Patience)
        $fatal(1, "FAIL: nothing moves after %0d input and %0d output beats", fed, given);
      cycle++;
    end
  end

  task automatic take;
    if (given >= 2 * Give) begin
      wrong("a beat that nobody asked for");
    end else begin
      if (out_data !== give[given%Give][OutBits-1:0]) begin
        wrong("data");
        $display("  expected %h, found %h", give[given%Give][OutBits-1:0], out_data);
      end
      if (out_last !== (given % OutBeats == OutBeats - 1)) wrong("last");
      if (!Axis && given == 0 && cycle - start != First) wrong("cycle of the first output beat");
      if (!Axis && given == OutBeats - 1 && cycle - start != Latency) wrong("latency");
    end
    given++;
  endtask

  task automatic wrong(input logic [40*8-1:0] what);
    errors++;
    $display("FAIL: output beat %0d of sample %0d, cycle %0d: %0s",
             given % OutBeats, given / OutBeats % Samples, cycle - start, what);
    if (errors == 8) $fatal(1, "FAIL: 8 mistakes");
  endtask

  task automatic report;
    if (errors != 0) $fatal(1, "FAIL: %0d mistakes in %0d beats", errors, given);
    $display("PASS: @TOP@: %0d beats in, %0d beats out", fed, given);
    done_o = 1'b1;
    if (Finish) $finish;
  endtask

endmodule

`default_nettype wire
"""
