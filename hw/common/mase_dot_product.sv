// Free-running dot product of Groups * GroupSize pairs, summed group by group.
//
//   sum_o[g] = sum over l in group g of x_i[l] * signed(w_i[l])
//
// Exact modulo 2**SumWidth, which by default holds every sum. x is signed or unsigned by XSigned. Latency is 1 + ceil(log2(GroupSize)):
// registered products, then an adder tree. A new set of pairs may enter every cycle; no handshake, no reset.

`default_nettype none

module mase_dot_product #(
  parameter int Groups = 1,
  parameter int GroupSize = 4,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int WWidth = 8,
  // Fewer bits are for whoever knows that the sums fit.
  parameter int SumWidth = XWidth + (XSigned ? 0 : 1) + WWidth + $clog2(GroupSize)
) (
  input  wire logic                               clk_i,
  input  wire logic [Groups*GroupSize*XWidth-1:0] x_i,
  input  wire logic [Groups*GroupSize*WWidth-1:0] w_i,
  output      logic [Groups*SumWidth-1:0]         sum_o
);

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int P = A + WWidth;

  for (genvar g = 0; g < Groups; g++) begin : gen_group
    logic [GroupSize*P-1:0] product;
    for (genvar i = 0; i < GroupSize; i++) begin : gen_lane
      localparam int L = g * GroupSize + i;
      logic signed [A-1:0]      x;
      logic signed [WWidth-1:0] w;
      logic signed [P-1:0]      product_q;
      if (XSigned) begin : gen_signed
        assign x = x_i[L*XWidth +: XWidth];
      end else begin : gen_unsigned
        assign x = {1'b0, x_i[L*XWidth +: XWidth]};
      end
      assign w = w_i[L*WWidth +: WWidth];
      always_ff @(posedge clk_i) product_q <= x * w;
      assign product[i*P +: P] = product_q;
    end
    mase_adder_tree #(.Count(GroupSize), .Width(P), .OutWidth(SumWidth)) u_tree (
      .clk_i (clk_i),
      .data_i(product),
      .sum_o (sum_o[g*SumWidth +: SumWidth])
    );
  end

endmodule

`default_nettype wire
