// Register slice of two entries for one valid/ready stream.
//
// Latency 1 cycle, one beat a cycle. Every output, in_ready_o included, comes straight from a flip-flop, so the slice
// cuts the forward and the backward timing path. The second entry catches the beat that is already on its way when
// the output stalls. Data is held while out_valid_o is high and out_ready_i is low; data is not reset.

`default_nettype none

module mase_skid_buffer #(
  parameter int Width = 8
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

  // in_ready_o is low exactly while skid_q holds a beat.
  logic [Width-1:0] skid_q;
  logic             load;

  assign load = out_ready_i || !out_valid_o;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      out_valid_o <= 1'b0;
      in_ready_o  <= 1'b1;
    end else if (load) begin
      out_valid_o <= in_valid_i || !in_ready_o;
      in_ready_o  <= 1'b1;
    end else if (in_valid_i) begin
      in_ready_o <= 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (load) out_data_o <= in_ready_o ? in_data_i : skid_q;
    if (in_ready_o) skid_q <= in_data_i;
  end

`ifdef FORMAL
  `include "mase_skid_buffer_formal.svh"
`endif

endmodule

`default_nettype wire
