// From exact integers to codes, Lanes a cycle: multiplier, exponent of aligned sums, one rounding.
//
//   y_o = round(mult_i * t_i << exp_i)          see mase_round for bounds, ReLU and zero point
//
// RawOut leaves mult_i * t_i << exp_i unrounded for block_normalise; Relu clears negative ones. Exact until the
// rounding. mult_i and exp_i come with their t_i, and valid_i and last_i go through beside it.
// Latency: [multiplier] + [Aligned] + [not RawOut] cycles. Free running: no handshake; valid alone is reset.

`default_nettype none

module mase_output #(
  parameter int Lanes = 2,
  parameter int InWidth = 18,
  parameter int MultBits = 0,  // 0: no multiplier
  parameter bit Aligned = 1'b0,
  parameter int ExpWidth = 1,
  parameter int ExpMax = 0,  // Aligned: greatest exp_i
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 4,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  // Derived, do not override.
  parameter int MultPort = (MultBits != 0) ? MultBits : 1
) (
  input  wire logic                      clk_i,
  input  wire logic                      rst_ni,

  input  wire logic                      valid_i,
  input  wire logic                      last_i,
  input  wire logic [Lanes*InWidth-1:0]  t_i,
  input  wire logic [Lanes*MultPort-1:0] mult_i,
  input  wire logic [Lanes*ExpWidth-1:0] exp_i,

  output      logic                      valid_o,
  output      logic                      last_o,
  output      logic [Lanes*OutWidth-1:0] y_o
);

  localparam int TotalWidth = InWidth + MultBits;
  localparam int RawWidth = TotalWidth + (Aligned ? ExpMax : 0);
  localparam int Stages = ((MultBits != 0) ? 1 : 0) + (Aligned ? 1 : 0) + (RawOut ? 0 : 1);

  // ---- what goes along ---------------------------------------------------------------------------------------------

  if (Stages == 0) begin : gen_at_once
    logic unused;
    assign unused  = &{1'b0, clk_i, rst_ni};
    assign valid_o = valid_i;
    assign last_o  = last_i;
  end else begin : gen_along
    logic [Stages-1:0] valid_q, last_q;
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) valid_q <= '0;
      else valid_q <= Stages'({valid_q, valid_i});
    end
    always_ff @(posedge clk_i) last_q <= Stages'({last_q, last_i});
    assign valid_o = valid_q[Stages-1];
    assign last_o  = last_q[Stages-1];
  end

  // ---- multiplier --------------------------------------------------------------------------------------------------

  logic [Lanes*TotalWidth-1:0] total;
  logic [Lanes*ExpWidth-1:0]   raise;  // beside total
  if (MultBits != 0) begin : gen_mult
    for (genvar l = 0; l < Lanes; l++) begin : gen_lane
      logic signed [InWidth-1:0]    a;
      logic signed [MultBits:0]     m;
      logic signed [TotalWidth-1:0] total_q;
      assign a = t_i[l*InWidth +: InWidth];
      assign m = {1'b0, mult_i[l*MultBits +: MultBits]};
      always_ff @(posedge clk_i) total_q <= TotalWidth'(a * m);
      assign total[l*TotalWidth +: TotalWidth] = total_q;
    end
    logic [Lanes*ExpWidth-1:0] raise_q;
    always_ff @(posedge clk_i) raise_q <= exp_i;
    assign raise = raise_q;
  end else begin : gen_no_mult
    logic unused;
    assign unused = &{1'b0, mult_i};
    assign total  = t_i;
    assign raise  = exp_i;
  end

  // ---- common unit -------------------------------------------------------------------------------------------------

  logic [Lanes*RawWidth-1:0] raw;
  if (Aligned) begin : gen_raise
    for (genvar l = 0; l < Lanes; l++) begin : gen_lane
      logic [RawWidth-1:0] raw_q;
      always_ff @(posedge clk_i) begin
        raw_q <= RawWidth'($signed(total[l*TotalWidth +: TotalWidth])) << raise[l*ExpWidth +: ExpWidth];
      end
      assign raw[l*RawWidth +: RawWidth] = raw_q;
    end
  end else begin : gen_level
    logic unused;
    assign unused = &{1'b0, raise};
    assign raw    = total;
  end

  // ---- rounding ----------------------------------------------------------------------------------------------------

  for (genvar l = 0; l < Lanes; l++) begin : gen_out
    logic [RawWidth-1:0] t;
    assign t = raw[l*RawWidth +: RawWidth];
    if (RawOut) begin : gen_raw
      assign y_o[l*OutWidth +: OutWidth] = (Relu && t[RawWidth-1]) ? '0 : t;
    end else begin : gen_round
      logic [OutWidth-1:0] y, y_q;
      mase_round #(
        .InWidth(RawWidth), .OutWidth(OutWidth), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft),
        .RoundMode(RoundMode), .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu), .Zero(Zero)
      ) u_round (
        .in_i (t),
        .out_o(y)
      );
      always_ff @(posedge clk_i) y_q <= y;
      assign y_o[l*OutWidth +: OutWidth] = y_q;
    end
  end

endmodule

`default_nettype wire
