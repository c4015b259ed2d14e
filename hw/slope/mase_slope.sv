// Scale every element by one constant where it is not negative, and by one of its place where it is: PReLU.
//
//   y = round((x < 0 ? m : Positive) * (x << e))          m signed, x with its block's exponent e
//
// Exact until the rounding; RawOut leaves the products unrounded for block_normalise. Word i of the memory belongs to
// beat i of a sample, modulo Words: a row, where all rows have the same constants. Lanes beyond Cols carry 0.
// One beat of Lanes elements a cycle; latency: shift and memory, product, rounding (unless RawOut), FIFO, 1 each.
// in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_slope #(
  parameter int Beats = 1,  // a sample
  parameter int Words = 1,
  parameter int Lanes = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int MultWidth = 17,
  parameter int Positive = 32768,
  parameter int SumWidth = 26,  // holds every product
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 16,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  parameter int FifoDepth = 2,
  parameter MultFile = "",
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
  localparam int WordWidth = (Words > 1) ? $clog2(Words) : 1;

  logic                       fire, credit, last, y_valid, y_last;
  logic [BeatWidth-1:0]       beat_q;
  logic [WordWidth-1:0]       word_q;
  logic [1:0]                 valid_q, last_q;
  logic [Lanes*MultWidth-1:0] mult;
  logic [Lanes*SumWidth-1:0]  t;
  logic [OutBits-1:0]         y;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      word_q  <= '0;
      valid_q <= '0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      if (fire) word_q <= (word_q == WordWidth'(Words - 1)) ? '0 : word_q + WordWidth'(1);
      valid_q <= {valid_q[0], fire};
    end
  end
  always_ff @(posedge clk_i) last_q <= {last_q[0], last};

  mase_rom #(.Width(Lanes * MultWidth), .Depth(Words), .File(MultFile)) u_mult (
    .clk_i (clk_i),
    .addr_i(word_q),
    .data_o(mult)
  );
  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic signed [A-1:0]         x;
    logic signed [Shifted-1:0]   shifted_q;
    logic signed [MultWidth-1:0] m;
    logic signed [SumWidth-1:0]  sum_q;
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
    assign m = shifted_q[Shifted-1] ? mult[l*MultWidth +: MultWidth] : MultWidth'(Positive);
    always_ff @(posedge clk_i) sum_q <= SumWidth'(shifted_q * m);
    assign t[l*SumWidth +: SumWidth] = sum_q;
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(SumWidth), .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned),
    .Narrow(Narrow), .Relu(Relu), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(valid_q[1]),
    .last_i (last_q[1]),
    .t_i    (t),
    .mult_i ({Lanes{1'b0}}),
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
