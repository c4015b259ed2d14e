// Output FIFO of a free-running pipeline: whoever starts a beat takes a credit, and a credit is a free slot.
//
// take_i reserves one slot and is legal only while credit_o is high; the beat follows by push_i after any number of
// cycles and then always fits, so the pipeline needs no enable. Full rate needs Depth >= pipeline latency + 2.
// Latency: pushed in cycle t, offered in cycle t + 1. A slot that is popped in cycle t can be taken in cycle t + 1.
// Handshake: credit_o and out_valid_o are functions of registered counts alone. Data is not reset.

`default_nettype none

module mase_credit_fifo #(
  parameter int Width = 8,
  parameter int Depth = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             take_i,
  output      logic             credit_o,

  input  wire logic             push_i,
  input  wire logic [Width-1:0] push_data_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o
);

  localparam int CountWidth = $clog2(Depth + 1);

  logic [CountWidth-1:0] free_q;
  logic                  pop;
  logic                  fits;

  assign credit_o = free_q != '0;
  assign pop      = out_valid_o && out_ready_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      free_q <= CountWidth'(Depth);
    end else begin
      if (take_i && !pop) free_q <= free_q - CountWidth'(1);
      if (pop && !take_i) free_q <= free_q + CountWidth'(1);
    end
  end

  mase_fifo #(
    .Width(Width),
    .Depth(Depth)
  ) u_fifo (
    .clk_i,
    .rst_ni,
    .in_valid_i (push_i),
    .in_ready_o (fits),
    .in_data_i  (push_data_i),
    .out_valid_o,
    .out_ready_i,
    .out_data_o
  );

`ifndef SYNTHESIS
  always @(posedge clk_i or negedge rst_ni) begin
    if (rst_ni) begin
      assert (!take_i || credit_o);  // nobody takes a slot that is not free
      assert (!push_i || fits);  // nobody pushes what was not taken
    end
  end
`endif

`ifdef FORMAL
  `include "mase_credit_fifo_formal.svh"
`endif

endmodule

`default_nettype wire
