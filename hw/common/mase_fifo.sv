// First-in first-out buffer of Depth beats of one valid/ready stream; Depth is any number from 1.
//
// Latency: a beat that is written in cycle t is offered at the output in cycle t + 1.
// Throughput: one beat a cycle from Depth 2 on; Depth 1 cannot be written and read in one cycle and halves the rate.
// Handshake: in_ready_o and out_valid_o are functions of the registered count alone, so no path runs from an input
// handshake to an output handshake. The data path is a memory with an asynchronous read and no reset.

`default_nettype none

module mase_fifo #(
  parameter int Width = 8,
  parameter int Depth = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o
);

  localparam int PointerWidth = (Depth > 1) ? $clog2(Depth) : 1;
  localparam int CountWidth = $clog2(Depth + 1);

  logic [Width-1:0]        memory_q [Depth];
  logic [PointerWidth-1:0] write_q;
  logic [PointerWidth-1:0] read_q;
  logic [CountWidth-1:0]   count_q;
  logic                    push;
  logic                    pop;

  assign in_ready_o  = count_q != CountWidth'(Depth);
  assign out_valid_o = count_q != '0;
  assign out_data_o  = memory_q[read_q];
  assign push        = in_valid_i && in_ready_o;
  assign pop         = out_valid_o && out_ready_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_q <= '0;
      read_q  <= '0;
      count_q <= '0;
    end else begin
      if (push) write_q <= (write_q == PointerWidth'(Depth - 1)) ? '0 : write_q + PointerWidth'(1);
      if (pop) read_q <= (read_q == PointerWidth'(Depth - 1)) ? '0 : read_q + PointerWidth'(1);
      if (push && !pop) count_q <= count_q + CountWidth'(1);
      if (pop && !push) count_q <= count_q - CountWidth'(1);
    end
  end

  always_ff @(posedge clk_i) begin
    if (push) memory_q[write_q] <= in_data_i;
  end

`ifdef FORMAL
  `include "mase_fifo_formal.svh"
`endif

endmodule

`default_nettype wire
