// Give every frame Beats beats: whatever lies between one `last` and the next becomes one frame, so one wrong frame never
// shifts those after it.
//
// A frame whose `last` comes early is filled up with beats of zeros, one a cycle. Of a frame whose `last` is missing the
// first Beats beats go on; the rest is dropped, one beat a cycle, up to and with the beat that has `last`. Either is
// damaged, and so is a frame with a beat that in_bad_i marks: out_damaged_o says so on the last beat of each frame, where
// all of that is known. error_o rises in the cycle after the wrong beat and stays until reset. With Resync 0 beats are
// only watched: all go on as they came, with their `last`, none is damaged, and error_o compares with the count.
// Latency 0, one beat a cycle. out_valid_o follows in_valid_i and in_ready_o follows out_ready_i within a cycle.

`default_nettype none

module mase_stream_resync #(
  parameter int Width  = 8,
  parameter int Beats  = 2,
  parameter int Resync = 1
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,
  input  wire logic             in_last_i,
  input  wire logic             in_bad_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_last_o,
  output      logic             out_damaged_o,

  output      logic             error_o
);

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic [BeatWidth-1:0] beat_q;  // beats of this frame that went on
  logic                 filling_q;  // its `last` came early
  logic                 dropping_q;  // its `last` has not come yet
  logic                 bad_q;
  logic                 at_last;
  logic                 move;
  logic                 wrong;

  assign at_last       = beat_q == BeatWidth'(Beats - 1);
  assign move          = out_valid_o && out_ready_i;
  assign wrong         = !filling_q && (in_bad_i || in_last_i != at_last);

  assign in_ready_o    = dropping_q || (out_ready_i && !filling_q);
  assign out_valid_o   = filling_q || (in_valid_i && !dropping_q);
  assign out_data_o    = filling_q ? '0 : in_data_i;
  assign out_last_o    = (Resync != 0) ? at_last : in_last_i;
  assign out_damaged_o = Resync != 0 && at_last && (filling_q || bad_q || wrong);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q     <= '0;
      filling_q  <= 1'b0;
      dropping_q <= 1'b0;
      bad_q      <= 1'b0;
      error_o    <= 1'b0;
    end else begin
      if (move) begin
        beat_q    <= at_last ? '0 : beat_q + BeatWidth'(1);
        filling_q <= Resync != 0 && !at_last && (filling_q || in_last_i);
        bad_q     <= !at_last && (bad_q || (in_bad_i && !filling_q));
        error_o   <= error_o || wrong;
      end
      if (dropping_q) dropping_q <= !(in_valid_i && in_last_i);
      else dropping_q <= Resync != 0 && move && at_last && !filling_q && !in_last_i;
    end
  end

`ifdef FORMAL
  `include "mase_stream_resync_formal.svh"
`endif

endmodule

`default_nettype wire
