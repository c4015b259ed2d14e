// Exact shift of group sums by their block exponents: term_o[i] = part_i[i] << exp_i[i], Delay cycles late.
//
// exp_i arrives Delay cycles before the sums that it belongs to and waits for them; the shifted term is registered
// once. TermWidth holds every shifted sum, so nothing is lost. Free running: no handshake, no reset.

`default_nettype none

module mase_shift_terms #(
  parameter int Count = 1,
  parameter int SumWidth = 8,
  parameter int TermWidth = 12,
  parameter int ExpWidth = 3,
  parameter int Delay = 1  // >= 1
) (
  input  wire logic                       clk_i,
  input  wire logic [Count*ExpWidth-1:0]  exp_i,
  input  wire logic [Count*SumWidth-1:0]  part_i,
  output      logic [Count*TermWidth-1:0] term_o
);

  localparam int E = Count * ExpWidth;

  logic [Delay*E-1:0] exp_q;
  always_ff @(posedge clk_i) exp_q <= (Delay * E)'({exp_q, exp_i});

  for (genvar i = 0; i < Count; i++) begin : gen_term
    logic [TermWidth-1:0] term_q;
    always_ff @(posedge clk_i) begin
      term_q <= TermWidth'($signed(part_i[i*SumWidth +: SumWidth])) << exp_q[(Delay-1)*E + i*ExpWidth +: ExpWidth];
    end
    assign term_o[i*TermWidth +: TermWidth] = term_q;
  end

endmodule

`default_nettype wire
