// Two streams of packets share one: whole packets leave, one after the other, in turn where both wait.
//
// A packet is the beats up to the one with last. While one is on its way, the other side waits; between packets the side
// that did not send the last one goes first, so a side that waits is passed over by one packet at most. out_side_o tells
// which side a beat is of. Latency 1 (the FIFO); one beat a cycle from depth 2 on.
// a_ready_o and b_ready_o depend on the other side's valid and registers, out_valid_o on registers only.

`default_nettype none

module mase_arbiter #(
  parameter int Width = 8,
  parameter int FifoDepth = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             a_valid_i,
  output      logic             a_ready_o,
  input  wire logic [Width-1:0] a_data_i,
  input  wire logic             a_last_i,

  input  wire logic             b_valid_i,
  output      logic             b_ready_o,
  input  wire logic [Width-1:0] b_data_i,
  input  wire logic             b_last_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_side_o,  // 1: of b
  output      logic             out_last_o
);

  logic open_q;  // a packet has begun
  logic side_q;  // of the packet that is on its way, or of the last one
  logic side, credit, fire, last;

  // Between packets: the side whose turn it is, unless it has nothing and the other one has.
  assign side      = open_q ? side_q : side_q ? !a_valid_i : b_valid_i;
  assign a_ready_o = credit && (open_q ? !side_q : (side_q || !b_valid_i));
  assign b_ready_o = credit && (open_q ? side_q : (!side_q || !a_valid_i));
  assign fire      = credit && (side ? b_valid_i : a_valid_i);
  assign last      = side ? b_last_i : a_last_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      open_q <= 1'b0;
      side_q <= 1'b1;
    end else if (fire) begin
      open_q <= !last;
      side_q <= side;
    end
  end

  mase_credit_fifo #(.Width(Width + 2), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (fire),
    .push_data_i({last, side, side ? b_data_i : a_data_i}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_side_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_arbiter_formal.svh"
`endif

endmodule

`default_nettype wire
