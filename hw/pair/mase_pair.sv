// Sum, difference or product of two streams, element by element, with one rounding.
//
//   sum:      y = round(AMult * (a << AShift + e_a) +- BMult * (b << BShift + e_b))
//   product:  y = round(Mult * (a * b << e_a + e_b))          e: the exponent of a block, where there are some
//
// Exact until the rounding; see mase_output for that. Where the shifts are too wide for an exact sum (Aligned), both
// terms are first cut against the greater of the two exponents with Guard more bits, and that one shifts the sum.
// A beat of each input is taken at once. Latency: operands (1, [multiplier], [Aligned sum]), sum, mase_output, FIFO.
// out_valid_o depends on registers only, a_ready_o on these and on b_valid_i, and b_ready_o on a_valid_i.

`default_nettype none

module mase_pair #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter bit Product = 1'b0,
  parameter bit Minus = 1'b0,
  parameter int AWidth = 8,
  parameter bit ASigned = 1'b1,
  parameter int AExpBits = 0,  // 0: a carries no exponents
  parameter int ABlock = 1,
  parameter int AMultBits = 0,  // 0: no multiplier
  parameter int AMult = 1,
  parameter int AShift = 0,
  parameter int BWidth = 8,
  parameter bit BSigned = 1'b1,
  parameter int BExpBits = 0,
  parameter int BBlock = 1,
  parameter int BMultBits = 0,
  parameter int BMult = 1,
  parameter int BShift = 0,
  parameter bit Aligned = 1'b0,  // exponents are applied behind the sum or product
  parameter int Guard = 0,
  parameter int ExpWidth = 1,
  parameter int ExpMax = 0,
  parameter int MultBits = 0,
  parameter int Mult = 1,
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
  parameter int AExps = (AExpBits == 0) ? 0 : (Lanes > ABlock) ? Lanes / ABlock : 1,
  parameter int BExps = (BExpBits == 0) ? 0 : (Lanes > BBlock) ? Lanes / BBlock : 1,
  parameter int ABits = Lanes * AWidth + AExps * AExpBits,
  parameter int BBits = Lanes * BWidth + BExps * BExpBits,
  parameter int OutBits = Lanes * OutWidth
) (
  input  wire logic               clk_i,
  input  wire logic               rst_ni,

  input  wire logic               a_valid_i,
  output      logic               a_ready_o,
  input  wire logic [ABits-1:0]   a_data_i,

  input  wire logic               b_valid_i,
  output      logic               b_ready_o,
  input  wire logic [BBits-1:0]   b_data_i,

  output      logic               out_valid_o,
  input  wire logic               out_ready_i,
  output      logic [OutBits-1:0] out_data_o,
  output      logic               out_last_o
);

  localparam bit Multiply = AMultBits != 0 || BMultBits != 0;
  localparam bit Down = Aligned && !Product;
  localparam int Stages = 2 + (Multiply ? 1 : 0) + (Down ? 1 : 0);  // to the sum
  // Shifts of the operands: by their own exponents, or down from the greater one.
  localparam int AShiftBits = Down ? ExpWidth : Aligned ? 0 : AExpBits;
  localparam int BShiftBits = Down ? ExpWidth : Aligned ? 0 : BExpBits;
  localparam int AShiftMax = (AShiftBits == 0) ? 0 : (1 << AShiftBits) - 1;
  localparam int BShiftMax = (BShiftBits == 0) ? 0 : (1 << BShiftBits) - 1;
  localparam int AOut = AWidth + (ASigned ? 0 : 1) + AMultBits + (Down ? Guard : AShift + AShiftMax);
  localparam int BOut = BWidth + (BSigned ? 0 : 1) + BMultBits + (Down ? Guard : BShift + BShiftMax);
  localparam int Sum = Product ? AOut + BOut : (AOut > BOut) ? AOut + 1 : BOut + 1;
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int MultPort = (MultBits != 0) ? MultBits : 1;

  logic                      fire, credit, last, y_valid, y_last;
  logic [BeatWidth-1:0]      beat_q;
  logic [Stages-1:0]         valid_q, last_q;
  logic [Lanes*Sum-1:0]      t;
  logic [Lanes*ExpWidth-1:0] raise;
  logic [OutBits-1:0]        y;

  assign a_ready_o = credit && b_valid_i;
  assign b_ready_o = credit && a_valid_i;
  assign fire      = credit && a_valid_i && b_valid_i;
  assign last      = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      valid_q <= '0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      valid_q <= Stages'({valid_q, fire});
    end
  end
  always_ff @(posedge clk_i) last_q <= Stages'({last_q, last});

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    localparam int AIndex = (AExps > 1) ? l / ABlock : 0;
    localparam int BIndex = (BExps > 1) ? l / BBlock : 0;
    localparam int AShiftPort = (AShiftBits == 0) ? 1 : AShiftBits;
    localparam int BShiftPort = (BShiftBits == 0) ? 1 : BShiftBits;

    logic [ExpWidth-1:0]   a_level, b_level, top;  // exponents of the terms, and of what is given
    logic [AShiftPort-1:0] a_shift;
    logic [BShiftPort-1:0] b_shift;
    logic signed [AOut-1:0] a;
    logic signed [BOut-1:0] b;
    logic signed [Sum-1:0]  t_q;

    if (AExpBits == 0 || !Aligned) begin : gen_a_flat
      assign a_level = Down ? ExpWidth'(AShift) : '0;
    end else begin : gen_a_exp
      assign a_level = ExpWidth'(a_data_i[Lanes*AWidth + AIndex*AExpBits +: AExpBits]) + ExpWidth'(Down ? AShift : 0);
    end
    if (BExpBits == 0 || !Aligned) begin : gen_b_flat
      assign b_level = Down ? ExpWidth'(BShift) : '0;
    end else begin : gen_b_exp
      assign b_level = ExpWidth'(b_data_i[Lanes*BWidth + BIndex*BExpBits +: BExpBits]) + ExpWidth'(Down ? BShift : 0);
    end
    assign top = Product ? a_level + b_level : (a_level > b_level) ? a_level : b_level;

    if (Down) begin : gen_down
      assign a_shift = top - a_level;
      assign b_shift = top - b_level;
    end else begin : gen_up
      if (AShiftBits == 0) begin : gen_a_none
        assign a_shift = '0;
      end else begin : gen_a_some
        assign a_shift = a_data_i[Lanes*AWidth + AIndex*AExpBits +: AExpBits];
      end
      if (BShiftBits == 0) begin : gen_b_none
        assign b_shift = '0;
      end else begin : gen_b_some
        assign b_shift = b_data_i[Lanes*BWidth + BIndex*BExpBits +: BExpBits];
      end
    end

    mase_pair_operand #(
      .Width(AWidth), .Signed(ASigned), .ShiftBits(AShiftBits), .ShiftMax(AShiftMax), .Multiply(Multiply),
      .MultBits(AMultBits), .Mult(AMult), .Down(Down), .Guard(Guard), .Left(AShift)
    ) u_a (
      .clk_i  (clk_i),
      .code_i (a_data_i[l*AWidth +: AWidth]),
      .shift_i(a_shift),
      .t_o    (a)
    );
    mase_pair_operand #(
      .Width(BWidth), .Signed(BSigned), .ShiftBits(BShiftBits), .ShiftMax(BShiftMax), .Multiply(Multiply),
      .MultBits(BMultBits), .Mult(BMult), .Down(Down), .Guard(Guard), .Left(BShift)
    ) u_b (
      .clk_i  (clk_i),
      .code_i (b_data_i[l*BWidth +: BWidth]),
      .shift_i(b_shift),
      .t_o    (b)
    );

    if (Product) begin : gen_product
      always_ff @(posedge clk_i) t_q <= Sum'(a * b);
    end else if (Minus) begin : gen_difference
      always_ff @(posedge clk_i) t_q <= Sum'(a) - Sum'(b);
    end else begin : gen_sum
      always_ff @(posedge clk_i) t_q <= Sum'(a) + Sum'(b);
    end
    assign t[l*Sum +: Sum] = t_q;

    if (Aligned) begin : gen_raise
      logic [Stages*ExpWidth-1:0] top_q;
      always_ff @(posedge clk_i) top_q <= (Stages * ExpWidth)'({top_q, top});
      assign raise[l*ExpWidth +: ExpWidth] = top_q[(Stages-1)*ExpWidth +: ExpWidth];
    end else begin : gen_level
      logic unused;
      assign unused = &{1'b0, top};
      assign raise[l*ExpWidth +: ExpWidth] = '0;
    end
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(Sum), .MultBits(MultBits), .Aligned(Aligned), .ExpWidth(ExpWidth), .ExpMax(ExpMax),
    .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu),
    .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(valid_q[Stages-1]),
    .last_i (last_q[Stages-1]),
    .t_i    (t),
    .mult_i ({Lanes{MultPort'(Mult)}}),
    .exp_i  (raise),
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
