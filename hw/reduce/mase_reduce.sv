// Reduce each group of Taps rows to one row, column by column: the greatest, the sum, or a weighted sum; one rounding.
//
//   Maximum:       y[c] = round(mult[c] * max over t of v[t][c])                      v = x << e, e: of x's block, if any
//   WWidth = 0:    y[c] = round(mult[c] * sum over t of v[t][c])
//   else:          y[c] = round(mult[c] * (bias[c] + sum over t of w[t][c] * v[t][c]))
//
// Aligned: rows come from mase_align, with one exponent E in a group, so that v = x, bias (<< Guard) >>> (E - its own
// exponent), and the sum goes left by E at the end.
// Exact until the rounding; see mase_output for that. A row is Beats beats of Lanes columns, and each has its place in a
// bank of accumulators, which is read and written in one cycle: one beat a cycle, no wait between rows or groups.
// Latency of a beat of a group's last row: shift, [product], accumulator, mase_output, FIFO.
// in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_reduce #(
  parameter int Groups = 1,  // of a sample
  parameter int Taps = 4,
  parameter int Beats = 2,
  parameter int Lanes = 2,
  parameter bit Maximum = 1'b0,
  parameter bit Least = 1'b0,  // of Maximum: the least in place of the greatest
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XExpMax = 0,   // greatest exponent
  parameter int XBlock = 1,
  parameter bit Aligned = 1'b0,
  parameter int Guard = 0,  // Aligned: of the bias
  parameter int WWidth = 0,  // of a stored weight, see mase_product; 0: no weights
  parameter bit WPower = 1'b0,
  parameter bit WZero = 1'b0,
  parameter int AccWidth = 10,
  parameter int BiasWidth = 0,  // 0: no bias
  parameter int MultBits = 0,  // 0: no multiplier
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 2,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  parameter int FifoDepth = 2,
  parameter     WeightFile = "",
  parameter     BiasFile = "",
  parameter     BiasExpFile = "",
  parameter     MultFile = "",
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
  localparam int Shifted = A + ((XExpBits == 0 || Aligned) ? 0 : XExpMax);
  localparam int ExpWidth = (XExpBits == 0) ? 1 : XExpBits;
  localparam int TermWidth = (WWidth == 0) ? Shifted : AccWidth;
  localparam int StageTerm = (WWidth == 0) ? 1 : 2;  // terms of a firing at cycle t are visible at t + StageTerm
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int TapWidth = (Taps > 1) ? $clog2(Taps) : 1;
  localparam int GroupWidth = (Groups > 1) ? $clog2(Groups) : 1;
  localparam int MultPort = (MultBits != 0) ? MultBits : 1;

  // ---- firing ------------------------------------------------------------------------------------------------------

  logic [BeatWidth-1:0]  beat_q;
  logic [TapWidth-1:0]   tap_q;
  logic [GroupWidth-1:0] group_q;
  logic                  beat_last, tap_last, group_last, credit, fire;

  assign beat_last  = beat_q == BeatWidth'(Beats - 1);
  assign tap_last   = tap_q == TapWidth'(Taps - 1);
  assign group_last = group_q == GroupWidth'(Groups - 1);
  assign in_ready_o = !tap_last || credit;
  assign fire       = in_valid_i && in_ready_o;

  // Bit s - 1 of each shift register belongs to stage s.
  logic [StageTerm-1:0]           valid_q, first_q;
  logic [StageTerm:0]             done_q, last_q;
  logic [StageTerm*BeatWidth-1:0] place_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      tap_q   <= '0;
      group_q <= '0;
      valid_q <= '0;
      done_q  <= '0;
    end else begin
      if (fire) begin
        beat_q <= beat_last ? '0 : beat_q + BeatWidth'(1);
        if (beat_last) tap_q <= tap_last ? '0 : tap_q + TapWidth'(1);
        if (beat_last && tap_last) group_q <= group_last ? '0 : group_q + GroupWidth'(1);
      end
      valid_q <= StageTerm'({valid_q, fire});
      done_q  <= (StageTerm + 1)'({done_q, fire && tap_last});
    end
  end
  always_ff @(posedge clk_i) begin
    first_q <= StageTerm'({first_q, tap_q == '0});
    last_q  <= (StageTerm + 1)'({last_q, group_last && beat_last});
    place_q <= (StageTerm * BeatWidth)'({place_q, beat_q});
  end

  // ---- terms -------------------------------------------------------------------------------------------------------

  logic [Lanes*Shifted-1:0]   value;  // at stage 1
  logic [Lanes*TermWidth-1:0] term;   // at StageTerm
  logic [Lanes*AccWidth-1:0]  start;  // beside it

  for (genvar l = 0; l < Lanes; l++) begin : gen_value
    logic signed [A-1:0]       x;
    logic signed [Shifted-1:0] value_q;
    if (XSigned) begin : gen_signed
      assign x = in_data_i[l*XWidth +: XWidth];
    end else begin : gen_unsigned
      assign x = {1'b0, in_data_i[l*XWidth +: XWidth]};
    end
    if (XExpBits == 0 || Aligned) begin : gen_plain
      always_ff @(posedge clk_i) value_q <= x;
    end else begin : gen_exp
      localparam int Index = (XExps > 1) ? l / XBlock : 0;
      always_ff @(posedge clk_i) begin
        value_q <= Shifted'(x) << in_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits];
      end
    end
    assign value[l*Shifted +: Shifted] = value_q;
  end

  if (WWidth == 0) begin : gen_values
    assign term = value;
  end else begin : gen_products
    localparam int Words = Taps * Beats;
    localparam int Addr = (Words > 1) ? $clog2(Words) : 1;
    logic [Addr-1:0]         addr_q;
    logic [Lanes*WWidth-1:0] word;
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) addr_q <= '0;
      else if (fire) addr_q <= (addr_q == Addr'(Words - 1)) ? '0 : addr_q + Addr'(1);
    end
    mase_rom #(.Width(Lanes * WWidth), .Depth(Words), .File(WeightFile)) u_weight (
      .clk_i (clk_i),
      .addr_i(addr_q),
      .data_o(word)
    );
    for (genvar l = 0; l < Lanes; l++) begin : gen_lane
      mase_product #(
        .XWidth(Shifted), .WWidth(WWidth), .Power(WPower), .HasZero(WZero), .OutWidth(AccWidth)
      ) u_product (
        .clk_i(clk_i),
        .x_i  (value[l*Shifted +: Shifted]),
        .w_i  (word[l*WWidth +: WWidth]),
        .y_o  (term[l*TermWidth +: TermWidth])
      );
    end
  end

  // ---- the exponent of a group, beside what it belongs to ------------------------------------------------------------

  logic [Lanes*ExpWidth-1:0] exp_start, exp;  // at StageTerm, and beside the sum
  if (!Aligned) begin : gen_no_exp
    assign exp_start = '0;
    assign exp       = '0;
  end else begin : gen_exps
    localparam int E = XExps * XExpBits;
    logic [(StageTerm+1)*E-1:0] exps_q;
    always_ff @(posedge clk_i) exps_q <= ((StageTerm + 1) * E)'({exps_q, in_data_i[Lanes*XWidth +: E]});
    for (genvar l = 0; l < Lanes; l++) begin : gen_lane
      localparam int Index = (XExps > 1) ? l / XBlock : 0;
      assign exp_start[l*ExpWidth +: ExpWidth] = exps_q[(StageTerm-1)*E + Index*XExpBits +: XExpBits];
      assign exp[l*ExpWidth +: ExpWidth]       = exps_q[StageTerm*E + Index*XExpBits +: XExpBits];
    end
  end

  if (BiasWidth == 0) begin : gen_no_bias
    logic unused;
    assign unused = &{1'b0, exp_start};
    assign start = '0;
  end else begin : gen_bias
    logic [BeatWidth-1:0]       ahead;
    logic [Lanes*BiasWidth-1:0] bias;
    if (StageTerm == 1) begin : gen_now
      assign ahead = beat_q;
    end else begin : gen_later
      assign ahead = place_q[(StageTerm-2)*BeatWidth +: BeatWidth];
    end
    mase_rom #(.Width(Lanes * BiasWidth), .Depth(Beats), .File(BiasFile)) u_bias (
      .clk_i (clk_i),
      .addr_i(ahead),
      .data_o(bias)
    );
    if (!Aligned) begin : gen_exact
      logic unused;
      assign unused = &{1'b0, exp_start};
      for (genvar l = 0; l < Lanes; l++) begin : gen_lane
        assign start[l*AccWidth +: AccWidth] = AccWidth'($signed(bias[l*BiasWidth +: BiasWidth]));
      end
    end else begin : gen_aligned
      logic [Lanes*ExpWidth-1:0] own;
      mase_rom #(
        .Width(Lanes * ExpWidth),
        .Depth(Beats),
        .File (BiasExpFile)
      ) u_exp (
        .clk_i (clk_i),
        .addr_i(ahead),
        .data_o(own)
      );
      for (genvar l = 0; l < Lanes; l++) begin : gen_lane
        logic signed [AccWidth-1:0] high;
        logic [ExpWidth-1:0]        down;
        assign high = AccWidth'($signed(bias[l*BiasWidth +: BiasWidth])) << Guard;
        assign down = exp_start[l*ExpWidth +: ExpWidth] - own[l*ExpWidth +: ExpWidth];
        assign start[l*AccWidth +: AccWidth] = high >>> down;
      end
    end
  end

  // ---- the bank of accumulators ------------------------------------------------------------------------------------

  logic [BeatWidth-1:0]      place;
  logic [Lanes*AccWidth-1:0] held, next, acc_q;
  logic                      first, valid;

  assign place = place_q[(StageTerm-1)*BeatWidth +: BeatWidth];
  assign first = first_q[StageTerm-1];
  assign valid = valid_q[StageTerm-1];

  for (genvar l = 0; l < Lanes; l++) begin : gen_next
    logic signed [AccWidth-1:0] old, t;
    assign old = held[l*AccWidth +: AccWidth];
    assign t   = AccWidth'($signed(term[l*TermWidth +: TermWidth]));
    if (Maximum) begin : gen_max
      assign next[l*AccWidth +: AccWidth] = (first || (Least ? t < old : t > old)) ? t : old;
    end else begin : gen_sum
      assign next[l*AccWidth +: AccWidth] = (first ? start[l*AccWidth +: AccWidth] : old) + t;
    end
  end

  if (Beats == 1) begin : gen_register
    logic unused;
    assign unused = &{1'b0, place};
    always_ff @(posedge clk_i) if (valid) acc_q <= next;
    assign held = acc_q;
  end else begin : gen_bank
    logic [Lanes*AccWidth-1:0] bank [Beats];
    always_ff @(posedge clk_i) begin
      if (valid) bank[place] <= next;
      acc_q <= next;
    end
    assign held = bank[place];
  end
  if (Maximum) begin : gen_unused
    logic unused;
    assign unused = &{1'b0, start};
  end

  // ---- output ------------------------------------------------------------------------------------------------------

  logic [Lanes*MultPort-1:0] mult;
  logic [OutBits-1:0]        y;
  logic                      y_valid, y_last;

  if (MultBits != 0) begin : gen_mult
    mase_rom #(.Width(Lanes * MultBits), .Depth(Beats), .File(MultFile)) u_mult (
      .clk_i (clk_i),
      .addr_i(place),
      .data_o(mult)
    );
  end else begin : gen_no_mult
    assign mult = '0;
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(AccWidth), .MultBits(MultBits), .Aligned(Aligned), .ExpWidth(ExpWidth), .ExpMax(XExpMax),
    .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu),
    .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(done_q[StageTerm]),
    .last_i (last_q[StageTerm]),
    .t_i    (acc_q),
    .mult_i (mult),
    .exp_i  (exp),
    .valid_o(y_valid),
    .last_o (y_last),
    .y_o    (y)
  );

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && tap_last),
    .credit_o   (credit),
    .push_i     (y_valid),
    .push_data_i({y_last, y}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
