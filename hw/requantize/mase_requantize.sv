// Element by element from one format to another, with one rounding; also an unfused ReLU.
//
//   y = round(Mult * min(x << e, CeilDigits << CeilShift))          x with its block's exponent e, where it carries one
//
// Without CeilDigits nothing bounds x.
// Exact until the rounding. RawOut leaves t = Mult * (x << e) unrounded for block_normalise (Relu clears negative t).
// One beat of Lanes elements a cycle; latency: shift, multiplier (if any), rounding (unless RawOut), FIFO, 1 each.
// in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_requantize #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int MultBits = 0,  // 0: no multiplier
  parameter int Mult = 1,
  parameter int CeilDigits = 0,
  parameter int CeilShift = 0,
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 0,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Lanes > XBlock) ? Lanes / XBlock : 1,
  parameter int InBits = Lanes * XWidth + XExps * XExpBits,
  parameter int OutBits = Lanes * OutWidth
) (
  input  wire logic               clk_i,
  input  wire logic               rst_ni,

  input  wire logic               in_valid_i,
  output      logic               in_ready_o,
  input  wire logic [InBits-1:0]  in_data_i,

  output      logic               out_valid_o,
  input  wire logic               out_ready_i,
  output      logic [OutBits-1:0] out_data_o,
  output      logic               out_last_o
);

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int Shifted = A + ((XExpBits == 0) ? 0 : (1 << XExpBits) - 1);
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int MultPort = (MultBits != 0) ? MultBits : 1;

  logic                     fire, credit, last, fire_q, last_q, y_valid, y_last;
  logic [BeatWidth-1:0]     beat_q;
  logic [Lanes*Shifted-1:0] t;
  logic [OutBits-1:0]       y;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q <= '0;
      fire_q <= 1'b0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      fire_q <= fire;
    end
  end
  always_ff @(posedge clk_i) last_q <= last;

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic signed [A-1:0]       x;
    logic signed [Shifted-1:0] shifted_q;
    if (XSigned) begin : gen_signed
      assign x = in_data_i[l*XWidth +: XWidth];
    end else begin : gen_unsigned
      assign x = {1'b0, in_data_i[l*XWidth +: XWidth]};
    end
    if (XExpBits == 0) begin : gen_plain
      always_ff @(posedge clk_i) shifted_q <= x;
    end else begin : gen_exp
      localparam int Index = (XExps > 1) ? l / XBlock : 0;
      always_ff @(posedge clk_i) begin
        shifted_q <= Shifted'(x) << in_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits];
      end
    end
    if (CeilDigits == 0) begin : gen_unbounded
      assign t[l*Shifted +: Shifted] = shifted_q;
    end else begin : gen_bounded
      localparam logic signed [Shifted-1:0] Ceil = Shifted'(CeilDigits) << CeilShift;
      assign t[l*Shifted +: Shifted] = (shifted_q > Ceil) ? Ceil : shifted_q;
    end
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(Shifted), .MultBits(MultBits), .RawOut(RawOut), .OutWidth(OutWidth),
    .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft),
    .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(fire_q),
    .last_i (last_q),
    .t_i    (t),
    .mult_i ({Lanes{MultPort'(Mult)}}),
    .exp_i  ({Lanes{1'b0}}),
    .valid_o(y_valid),
    .last_o (y_last),
    .y_o    (y)
  );

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (y_valid),
    .push_data_i({y_last, y}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
