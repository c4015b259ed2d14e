// One stream for two readers: each beat that is taken is given by a and by b, each behind a FIFO of its own.
//
// A beat is taken when both FIFOs have a free slot (a credit), and each reader takes it when it likes: the deeper FIFO
// is the slack of a branch beside a longer one. a_last_o and b_last_o mark the last of Beats beats.
// Latency 1 (the FIFO); one beat a cycle from depth 2 on. in_ready_o, a_valid_o and b_valid_o depend on registers only.

`default_nettype none

module mase_fork #(
  parameter int Width = 8,
  parameter int Beats = 1,  // a sample
  parameter int DepthA = 2,
  parameter int DepthB = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,

  output      logic             a_valid_o,
  input  wire logic             a_ready_i,
  output      logic [Width-1:0] a_data_o,
  output      logic             a_last_o,

  output      logic             b_valid_o,
  input  wire logic             b_ready_i,
  output      logic [Width-1:0] b_data_o,
  output      logic             b_last_o
);

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic [BeatWidth-1:0] beat_q;
  logic                 credit_a;
  logic                 credit_b;
  logic                 fire;
  logic                 last;

  assign in_ready_o = credit_a && credit_b;
  assign fire       = in_valid_i && in_ready_o;
  assign last       = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) beat_q <= '0;
    else if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
  end

  mase_credit_fifo #(.Width(Width + 1), .Depth(DepthA)) u_a (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit_a),
    .push_i     (fire),
    .push_data_i({last, in_data_i}),
    .out_valid_o(a_valid_o),
    .out_ready_i(a_ready_i),
    .out_data_o ({a_last_o, a_data_o})
  );

  mase_credit_fifo #(.Width(Width + 1), .Depth(DepthB)) u_b (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit_b),
    .push_i     (fire),
    .push_data_i({last, in_data_i}),
    .out_valid_o(b_valid_o),
    .out_ready_i(b_ready_i),
    .out_data_o ({b_last_o, b_data_o})
  );

`ifdef FORMAL
  `include "mase_fork_formal.svh"
`endif

endmodule

`default_nettype wire
