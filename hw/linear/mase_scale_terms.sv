// Times the factor of its block: term_o[i] = part_i[i] * factor_i[i], Delay cycles late.
//
// Weights that share a factor are stored without it, so that their sum is multiplied once. factor_i (unsigned) arrives
// Delay cycles before the sums that it belongs to and waits for them; the product is registered once. Exact modulo
// 2**OutWidth. Free running: no handshake, no reset.

`default_nettype none

module mase_scale_terms #(
  parameter int Count = 1,
  parameter int SumWidth = 8,
  parameter int FactorBits = 4,
  parameter int OutWidth = 12,
  parameter int Delay = 1  // >= 1
) (
  input  wire logic                        clk_i,
  input  wire logic [Count*FactorBits-1:0] factor_i,
  input  wire logic [Count*SumWidth-1:0]   part_i,
  output      logic [Count*OutWidth-1:0]   term_o
);

  localparam int F = Count * FactorBits;

  logic [Delay*F-1:0] factor_q;
  always_ff @(posedge clk_i) factor_q <= (Delay * F)'({factor_q, factor_i});

  for (genvar i = 0; i < Count; i++) begin : gen_term
    logic signed [SumWidth-1:0] part;
    logic signed [FactorBits:0] factor;
    logic [OutWidth-1:0]        term_q;
    assign part   = part_i[i*SumWidth +: SumWidth];
    assign factor = {1'b0, factor_q[(Delay-1)*F + i*FactorBits +: FactorBits]};
    always_ff @(posedge clk_i) term_q <= OutWidth'(part * factor);
    assign term_o[i*OutWidth +: OutWidth] = term_q;
  end

endmodule

`default_nettype wire
