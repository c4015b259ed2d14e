// Registered products beside a comparison that is slower than they are: as in a design, they may be mapped for area.

`default_nettype none

module frame_product #(
  parameter int Count = 8,
  parameter int XWidth = 4,
  parameter int WWidth = 4
) (
  input  wire logic                             clk_i,
  input  wire logic [31:0]                      a_i,
  input  wire logic [31:0]                      b_i,
  input  wire logic [Count*XWidth-1:0]          x_i,
  input  wire logic [Count*WWidth-1:0]          w_i,
  output      logic [Count*(XWidth+WWidth)-1:0] product_o,
  output      logic [31:0]                      slow_o
);

  logic [31:0] sum_q;

  always_ff @(posedge clk_i) begin
    sum_q  <= a_i + b_i;
    slow_o <= ($signed(sum_q) < $signed(a_i)) ? sum_q : b_i;
  end

  mase_dot_product #(.Groups(Count), .GroupSize(1), .XWidth(XWidth), .WWidth(WWidth)) u_products (
    .clk_i(clk_i),
    .x_i  (x_i),
    .w_i  (w_i),
    .sum_o(product_o)
  );

endmodule

`default_nettype wire
