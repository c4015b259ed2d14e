// An exact integer becomes the power of two nearest in the logarithm, with its sign; saturating at 0 and Top.
//
//   out_o = sign, log2 of |in_i| / 2**down_i          rounded up from sqrt(2) on, which is no integer: there are no ties
//
// 0 becomes the least power. down_i may be negative. Latency 3; free running: no handshake, no reset.

`default_nettype none

module mase_log_round #(
  parameter int InWidth   = 16,
  parameter int DownWidth = 6,  // bits of down_i, signed
  parameter int ExpBits   = 3,
  parameter int Top       = (1 << ExpBits) - 1,  // greatest exponent
  // Derived, do not override.
  parameter int OutWidth  = 1 + ExpBits
) (
  input  wire logic                 clk_i,
  input  wire logic [InWidth-1:0]   in_i,
  input  wire logic [DownWidth-1:0] down_i,
  output      logic [OutWidth-1:0]  out_o
);

  localparam int LeadWidth = (InWidth > 1) ? $clog2(InWidth) : 1;
  localparam int Widest = (LeadWidth > DownWidth) ? LeadWidth : DownWidth;
  localparam int Power = ((Widest > ExpBits) ? Widest : ExpBits) + 3;  // signed

  // The least number of InWidth bits whose square is above 2**(2*InWidth-1): sqrt(2), its leading bit at the top.
  function automatic logic [InWidth-1:0] middle();
    logic [2*InWidth-1:0] square;
    logic [InWidth-1:0]   found, trial;
    found = '0;
    for (int i = InWidth - 1; i >= 0; i--) begin
      trial  = found | (InWidth'(1) << i);
      square = (2 * InWidth)'(trial) * (2 * InWidth)'(trial);
      if (square <= (2 * InWidth)'(1) << (2 * InWidth - 1)) found = trial;
    end
    middle = found + InWidth'(1);
  endfunction
  localparam logic [InWidth-1:0] Middle = middle();

  // ---- 1: magnitude, and where its leading bit is ----------------------------------------------------------------------

  logic [InWidth-1:0]      size, size_q;
  logic [LeadWidth-1:0]    lead, lead_q;
  logic signed [Power-1:0] down_q;
  logic                    sign_q, sign_q2, zero_q, zero_q2;
  assign size = in_i[InWidth-1] ? -in_i : in_i;
  always_comb begin
    lead = '0;
    for (int i = 0; i < InWidth; i++) begin
      if (size[i]) lead = LeadWidth'(i);
    end
  end
  always_ff @(posedge clk_i) begin
    size_q <= size;
    lead_q <= lead;
    down_q <= Power'($signed(down_i));
    sign_q <= in_i[InWidth-1];
    zero_q <= size == '0;
  end

  // ---- 2: the leading bit goes to the top, where numbers compare with sqrt(2) ---------------------------------------------

  logic [InWidth-1:0]      high;
  logic signed [Power-1:0] power_q;
  assign high = size_q << (LeadWidth'(InWidth - 1) - lead_q);
  always_ff @(posedge clk_i) begin
    power_q <= $signed(Power'(lead_q)) - down_q + $signed(Power'(high >= Middle));
    sign_q2 <= sign_q;
    zero_q2 <= zero_q;
  end

  // ---- 3: saturate ---------------------------------------------------------------------------------------------------------

  logic [ExpBits-1:0] power;
  assign power = (zero_q2 || power_q < $signed(Power'(0))) ? '0 :
                 (power_q > $signed(Power'(Top))) ? ExpBits'(Top) : power_q[ExpBits-1:0];
  always_ff @(posedge clk_i) out_o <= {sign_q2, power};

endmodule

`default_nettype wire
