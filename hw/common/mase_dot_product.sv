// Free-running dot product of Groups * GroupSize pairs, summed group by group.
//
//   sum_o[g] = sum over l in group g of x_i[l] * w_i[l]           a weight is as mase_product has it
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
  parameter bit WPower = 1'b0,
  parameter int WExp = 0,
  parameter int WFactor = WWidth,  // bits that a weight adds to a product
  parameter bit WZero = 1'b0,
  // Fewer bits are for whoever knows that the sums fit.
  parameter int SumWidth = XWidth + (XSigned ? 0 : 1) + WFactor + $clog2(GroupSize)
) (
  input  wire logic                               clk_i,
  input  wire logic [Groups*GroupSize*XWidth-1:0] x_i,
  input  wire logic [Groups*GroupSize*WWidth-1:0] w_i,
  output      logic [Groups*SumWidth-1:0]         sum_o
);

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int P = A + WFactor;

  for (genvar g = 0; g < Groups; g++) begin : gen_group
    logic [GroupSize*P-1:0] product;
    for (genvar i = 0; i < GroupSize; i++) begin : gen_lane
      localparam int L = g * GroupSize + i;
      logic [A-1:0] x;
      if (XSigned) begin : gen_signed
        assign x = x_i[L*XWidth +: XWidth];
      end else begin : gen_unsigned
        assign x = {1'b0, x_i[L*XWidth +: XWidth]};
      end
      mase_product #(
        .XWidth(A), .WWidth(WWidth), .Power(WPower), .HasZero(WZero), .ExpBits(WExp), .OutWidth(P)
      ) u_product (
        .clk_i(clk_i),
        .x_i  (x),
        .w_i  (w_i[L*WWidth +: WWidth]),
        .y_o  (product[i*P +: P])
      );
    end
    mase_adder_tree #(.Count(GroupSize), .Width(P), .OutWidth(SumWidth)) u_tree (
      .clk_i (clk_i),
      .data_i(product),
      .sum_o (sum_o[g*SumWidth +: SumWidth])
    );
  end

endmodule

`default_nettype wire
