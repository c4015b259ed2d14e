// Two streams in turn, Outer times a sample: BeatsA beats of a, then BeatsB beats of b.
//
// Beats pass unchanged. out_last_o marks the last beat of a sample. Latency 1 (the FIFO); one beat a cycle from depth 2
// on. a_ready_o, b_ready_o and out_valid_o depend on registers only.

`default_nettype none

module mase_concat #(
  parameter int Width = 8,
  parameter int Outer = 1,
  parameter int BeatsA = 1,
  parameter int BeatsB = 1,
  parameter int FifoDepth = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             a_valid_i,
  output      logic             a_ready_o,
  input  wire logic [Width-1:0] a_data_i,

  input  wire logic             b_valid_i,
  output      logic             b_ready_o,
  input  wire logic [Width-1:0] b_data_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_last_o
);

  localparam int Most = (BeatsA > BeatsB) ? BeatsA : BeatsB;
  localparam int BeatWidth = (Most > 1) ? $clog2(Most) : 1;
  localparam int OuterWidth = (Outer > 1) ? $clog2(Outer) : 1;

  logic [BeatWidth-1:0]  beat_q;  // of this side
  logic [OuterWidth-1:0] outer_q;
  logic                  side_q;  // b
  logic                  credit, fire, side_end, outer_end, last;

  assign a_ready_o = credit && !side_q;
  assign b_ready_o = credit && side_q;
  assign fire      = credit && (side_q ? b_valid_i : a_valid_i);
  assign side_end  = beat_q == (side_q ? BeatWidth'(BeatsB - 1) : BeatWidth'(BeatsA - 1));
  assign outer_end = outer_q == OuterWidth'(Outer - 1);
  assign last      = side_q && side_end && outer_end;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      outer_q <= '0;
      side_q  <= 1'b0;
    end else if (fire) begin
      beat_q <= side_end ? '0 : beat_q + BeatWidth'(1);
      side_q <= side_q ^ side_end;
      if (side_q && side_end) outer_q <= outer_end ? '0 : outer_q + OuterWidth'(1);
    end
  end

  mase_credit_fifo #(.Width(Width + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (fire),
    .push_data_i({last, side_q ? b_data_i : a_data_i}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_concat_formal.svh"
`endif

endmodule

`default_nettype wire
