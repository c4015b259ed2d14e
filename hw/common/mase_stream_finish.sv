// Give packets of Beats beats, `last` on the last one, also if the source is cleared in mid-packet.
//
// In a cycle with flush_i the beat that is taken still counts; from the next one on a packet that has begun is completed
// with beats of zeros, one a cycle, the last of them with out_marked_o. Meanwhile in_ready_o is low, so the source may
// begin anew at once. Without a flush beats pass unchanged, and in_marked_i passes with the last one of each packet.
// The length of a packet is counted here. Latency 0, one beat a cycle. out_valid_o follows in_valid_i and in_ready_o
// follows out_ready_i within a cycle. An offer that was not taken changes only where flush_i is high: put a register
// slice behind, which flush_i does not clear.

`default_nettype none

module mase_stream_finish #(
  parameter int Width = 8,
  parameter int Beats = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,
  input  wire logic             flush_i,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,
  input  wire logic             in_marked_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_last_o,
  output      logic             out_marked_o
);

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic [BeatWidth-1:0] beat_q;  // beats of this packet that went on
  logic [BeatWidth-1:0] beat_d;
  logic                 filling_q;
  logic                 move;

  assign move         = out_valid_o && out_ready_i;
  assign beat_d       = !move ? beat_q : out_last_o ? '0 : beat_q + BeatWidth'(1);

  assign in_ready_o   = out_ready_i && !filling_q;
  assign out_valid_o  = filling_q || in_valid_i;
  assign out_data_o   = filling_q ? '0 : in_data_i;
  assign out_last_o   = beat_q == BeatWidth'(Beats - 1);
  assign out_marked_o = out_last_o && (filling_q || in_marked_i);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q    <= '0;
      filling_q <= 1'b0;
    end else begin
      beat_q    <= beat_d;
      filling_q <= (filling_q || flush_i) && beat_d != '0;
    end
  end

`ifdef FORMAL
  `include "mase_stream_finish_formal.svh"
`endif

endmodule

`default_nettype wire
