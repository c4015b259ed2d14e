// Monitor of one stream at a boundary: error_o says that `last` was not on the last beat of a sample of Beats beats.
//
// The length of a sample is counted here, never taken from last_i: a wrong last_i sets error_o and changes nothing
// else. error_o rises in the cycle after the wrong beat moved and stays until reset. The guard only watches: it has no
// path into the handshake. One beat a cycle.

`default_nettype none

module mase_stream_guard #(
  parameter int Beats = 1
) (
  input  wire logic clk_i,
  input  wire logic rst_ni,

  input  wire logic valid_i,
  input  wire logic ready_i,
  input  wire logic last_i,

  output      logic error_o
);

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic [BeatWidth-1:0] beat_q;
  logic                 at_last;

  assign at_last = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      error_o <= 1'b0;
    end else if (valid_i && ready_i) begin
      beat_q  <= at_last ? '0 : beat_q + BeatWidth'(1);
      error_o <= error_o || (last_i != at_last);
    end
  end

endmodule

`default_nettype wire
