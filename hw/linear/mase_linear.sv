// Folded linear layer: output-stationary, Simd inputs times Pe outputs a cycle, one rounding.
//
//   y[o] = round(m[o] * (b[o] + sum over k of x[k] * w[o][k]))     exact until the rounding
//
// Integer mantissas; where x or w carry block exponents each group sum P is shifted by its exponents e first:
// left by e (exact), or, with Aligned, (P << Guard) >>> (E - e) under E = max over all e of this output, which a
// scan of the exponents finds before the sum starts. RawOut leaves t = m * sum (<< E) unrounded for block_normalise.
// Order: for row, for o in tiles of Pe, for k in beats of Simd; the row is replayed from a buffer for o > 0.
// One firing a cycle (two passes a tile with Aligned); latency from the last firing of a tile: Latency below.
// in_ready_o and out_valid_o come from registers; the pipeline runs freely into an output FIFO with credits.

`default_nettype none

module mase_linear #(
  parameter int Rows = 1,
  parameter int Inputs = 4,
  parameter int Outputs = 4,
  parameter int Simd = 2,
  parameter int Pe = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int WWidth = 8,
  parameter int WExpBits = 0,  // 0: w carries no exponents
  parameter int WBlock = 1,
  parameter bit Aligned = 1'b0,
  parameter int Guard = 0,
  parameter int ExpWidth = 1,  // bits of the sum of two exponents, and of the bias exponent
  parameter int ExpMax = 0,    // Aligned: greatest such sum
  parameter int AccWidth = 18,
  parameter int BiasWidth = 18,
  parameter int MultBits = 0,  // 0: no multiplier
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 4,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int FifoDepth = 2,
  parameter     WeightFile = "",
  parameter     WeightExpFile = "",
  parameter     BiasFile = "",
  parameter     BiasExpFile = "",
  parameter     MultFile = "",
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Simd > XBlock) ? Simd / XBlock : 1,
  parameter int InBits = Simd * XWidth + XExps * XExpBits,
  parameter int OutBits = Pe * OutWidth
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

  // ---- sizes ---------------------------------------------------------------------------------------------------

  localparam int InTiles = (Inputs + Simd - 1) / Simd;
  localparam int OutTiles = (Outputs + Pe - 1) / Pe;
  localparam bit HasExp = (XExpBits != 0) || (WExpBits != 0);
  localparam int XGroup = (XExpBits == 0 || XBlock > Simd) ? Simd : XBlock;
  localparam int WGroup = (WExpBits == 0 || WBlock > Simd) ? Simd : WBlock;
  // Greatest common divisor of two divisors of Simd: lanes that share both exponents.
  function automatic int gcd(input int a, input int b);
    int x, y, t;
    x = a;
    y = b;
    for (int i = 0; i < 32; i++) begin
      if (y != 0) begin
        t = x % y;
        x = y;
        y = t;
      end
    end
    gcd = x;
  endfunction
  localparam int GroupSize = gcd(XGroup, WGroup);
  localparam int Groups = Simd / GroupSize;
  // Aligned: beats that make one region of constant exponents complete.
  localparam int Region = (XExpBits == 0) ? WBlock : (WExpBits == 0) ? XBlock : gcd(XBlock, WBlock);
  localparam int RegionBeats = (Aligned && Region > Simd) ? Region / Simd : 1;
  localparam bit Regions = RegionBeats > 1;
  localparam int FullWidth = XWidth + (XSigned ? 0 : 1) + WWidth + $clog2(GroupSize);
  // No sum of a beat or of a region takes more bits than the accumulator leaves for it.
  localparam int SumMost = Aligned ? AccWidth - Guard : HasExp ? FullWidth : AccWidth;
  localparam int SumWidth = (FullWidth < SumMost) ? FullWidth : SumMost;
  localparam int PartFull = SumWidth + (Regions ? $clog2(RegionBeats) : 0);
  localparam int PartWidth = (Aligned && PartFull > SumMost) ? SumMost : PartFull;
  localparam int TermWidth = HasExp ? AccWidth : SumWidth;
  localparam int TotalWidth = AccWidth + MultBits;
  localparam int RawWidth = TotalWidth + (Aligned ? ExpMax : 0);

  localparam int KWidth = (InTiles > 1) ? $clog2(InTiles) : 1;
  localparam int OWidth = (OutTiles > 1) ? $clog2(OutTiles) : 1;
  localparam int RWidth = (Rows > 1) ? $clog2(Rows) : 1;

  // Stages: data of a firing at cycle t is visible at t + stage.
  localparam int StagePart = 2 + $clog2(GroupSize);                  // group sums
  localparam int StageTerm = StagePart + (Regions ? 1 : 0) + (HasExp ? 1 : 0);  // shifted terms
  localparam int StageAdd = StageTerm + $clog2(Groups);              // what the accumulator adds
  localparam int StageAcc = StageAdd + 1;
  localparam int StageMult = StageAcc + ((MultBits != 0) ? 1 : 0);
  localparam int StageRaw = StageMult + (Aligned ? 1 : 0);
  localparam int StagePush = StageRaw + (RawOut ? 0 : 1);

  // ---- firing: counters, input, credits --------------------------------------------------------------------------

  logic [KWidth-1:0] k_q;
  logic [OWidth-1:0] o_q;
  logic [RWidth-1:0] row_q;
  logic              scan_q, k_last, o_last, row_last, need_in, produce, credit, fire, mac;

  assign k_last     = k_q == KWidth'(InTiles - 1);
  assign o_last     = o_q == OWidth'(OutTiles - 1);
  assign row_last   = row_q == RWidth'(Rows - 1);
  assign mac        = !Aligned || !scan_q;
  assign need_in    = o_q == '0 && (!Aligned || scan_q);
  assign produce    = k_last && mac;
  assign in_ready_o = need_in && (!produce || credit);
  assign fire       = (!need_in || in_valid_i) && (!produce || credit);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      k_q    <= '0;
      o_q    <= '0;
      row_q  <= '0;
      scan_q <= 1'b1;
    end else if (fire) begin
      k_q <= k_last ? '0 : k_q + KWidth'(1);
      if (k_last) scan_q <= !scan_q;
      if (k_last && mac) begin
        o_q <= o_last ? '0 : o_q + OWidth'(1);
        if (o_last) row_q <= row_last ? '0 : row_q + RWidth'(1);
      end
    end
  end

  // ---- control that travels with the data ------------------------------------------------------------------------

  // Bit s - 1 of each shift register belongs to stage s.
  logic                        region_end;
  localparam int TileStages = (MultBits != 0) ? StageAdd : StageAdd - 1;
  logic [StageAdd-1:0]          valid_q, end_q;
  logic [StagePush-1:0]         done_q, last_q;
  logic [TileStages*OWidth-1:0] tile_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_q <= '0;
      done_q  <= '0;
    end else begin
      valid_q <= StageAdd'({valid_q, fire && mac});
      done_q  <= StagePush'({done_q, fire && produce});
    end
  end
  always_ff @(posedge clk_i) begin
    end_q  <= StageAdd'({end_q, region_end});
    last_q <= StagePush'({last_q, row_last && o_last});
    tile_q <= (TileStages * OWidth)'({tile_q, o_q});
  end

  if (RegionBeats > 1) begin : gen_region_end
    localparam int BeatWidth = $clog2(RegionBeats);
    logic [BeatWidth-1:0] beat_q;
    assign region_end = k_last || beat_q == BeatWidth'(RegionBeats - 1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) beat_q <= '0;
      else if (fire) beat_q <= region_end ? '0 : beat_q + BeatWidth'(1);
    end
  end else begin : gen_every_beat
    assign region_end = 1'b1;
  end

  // ---- the input row: straight through for tile 0, from the replay buffer after ------------------------------------

  logic [InBits-1:0] x_beat;

  if (OutTiles == 1 && !Aligned) begin : gen_straight
    always_ff @(posedge clk_i) x_beat <= in_data_i;
  end else begin : gen_replay
    logic [InBits-1:0] row_mem [InTiles];
    logic [InBits-1:0] stored_q, fresh_q;
    logic              fresh_sel_q;
    always_ff @(posedge clk_i) begin
      if (fire && need_in) row_mem[k_q] <= in_data_i;
      stored_q    <= row_mem[k_q];
      fresh_q     <= in_data_i;
      fresh_sel_q <= need_in;
    end
    assign x_beat = fresh_sel_q ? fresh_q : stored_q;
  end

  // ---- weights ---------------------------------------------------------------------------------------------------

  localparam int WWords = OutTiles * InTiles;
  localparam int WAddr = (WWords > 1) ? $clog2(WWords) : 1;
  logic [WAddr-1:0]          w_addr_q;
  logic [Pe*Simd*WWidth-1:0] w_word;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) w_addr_q <= '0;
    else if (fire && mac) w_addr_q <= (w_addr_q == WAddr'(WWords - 1)) ? '0 : w_addr_q + WAddr'(1);
  end

  mase_rom #(
    .Width(Pe * Simd * WWidth), .Depth(WWords), .File(WeightFile)
  ) u_weight (
    .clk_i (clk_i),
    .addr_i(w_addr_q),
    .data_o(w_word)
  );

  // ---- products and group sums -----------------------------------------------------------------------------------

  logic [Pe*Groups*SumWidth-1:0] part;
  for (genvar p = 0; p < Pe; p++) begin : gen_dot
    mase_dot_product #(
      .Groups(Groups), .GroupSize(GroupSize), .XWidth(XWidth), .XSigned(XSigned), .WWidth(WWidth),
      .SumWidth(SumWidth)
    ) u_dot (
      .clk_i(clk_i),
      .x_i  (x_beat[Simd*XWidth-1:0]),
      .w_i  (w_word[p*Simd*WWidth +: Simd*WWidth]),
      .sum_o(part[p*Groups*SumWidth +: Groups*SumWidth])
    );
  end

  // ---- exponents: shift each group sum ---------------------------------------------------------------------------

  logic [Pe*Groups*TermWidth-1:0] term;       // at StageTerm

  if (!HasExp) begin : gen_plain
    for (genvar i = 0; i < Pe * Groups; i++) begin : gen_term
      assign term[i*TermWidth +: TermWidth] = part[i*SumWidth +: TermWidth];
    end
  end else begin : gen_exp
    logic [Groups*ExpWidth-1:0]    x_exp;    // at stage 1
    logic [Pe*Groups*ExpWidth-1:0] exp_sum;  // at stage 1
    for (genvar g = 0; g < Groups; g++) begin : gen_x
      if (XExpBits == 0) begin : gen_none
        assign x_exp[g*ExpWidth +: ExpWidth] = '0;
      end else begin : gen_some
        localparam int Index = (XExps > 1) ? g * GroupSize / XBlock : 0;
        assign x_exp[g*ExpWidth +: ExpWidth] = ExpWidth'(x_beat[Simd*XWidth + Index*XExpBits +: XExpBits]);
      end
    end

    if (WExpBits == 0) begin : gen_no_w
      for (genvar i = 0; i < Pe * Groups; i++) begin : gen_sum
        assign exp_sum[i*ExpWidth +: ExpWidth] = x_exp[(i%Groups)*ExpWidth +: ExpWidth];
      end
    end else begin : gen_w
      // One word for all outputs of a tile, a new one every WordBeats beats.
      localparam int WExps = (Simd > WBlock) ? Simd / WBlock : 1;
      localparam int WordBeats = (WBlock > Simd) ? WBlock / Simd : 1;
      localparam int TileWords = (InTiles + WordBeats - 1) / WordBeats;
      localparam int Words = OutTiles * TileWords;
      localparam int Addr = (Words > 1) ? $clog2(Words) : 1;
      localparam int BeatWidth = (WordBeats > 1) ? $clog2(WordBeats) : 1;
      logic [Addr-1:0]              addr_q, next_tile, tile_start_q;
      logic [BeatWidth-1:0]         beat_q;
      logic                         beat_last;
      logic [Pe*WExps*WExpBits-1:0] word;

      assign beat_last = beat_q == BeatWidth'(WordBeats - 1);
      assign next_tile = (addr_q == Addr'(Words - 1)) ? '0 : addr_q + Addr'(1);
      always_ff @(posedge clk_i or negedge rst_ni) begin
        if (!rst_ni) begin
          addr_q       <= '0;
          tile_start_q <= '0;
          beat_q       <= '0;
        end else if (fire) begin
          beat_q <= (k_last || beat_last) ? '0 : beat_q + BeatWidth'(1);
          if (k_last && !mac) addr_q <= tile_start_q;
          else if (k_last || beat_last) addr_q <= next_tile;
          if (produce) tile_start_q <= next_tile;
        end
      end
      mase_rom #(
        .Width(Pe * WExps * WExpBits), .Depth(Words), .File(WeightExpFile)
      ) u_weight_exp (
        .clk_i (clk_i),
        .addr_i(addr_q),
        .data_o(word)
      );
      for (genvar i = 0; i < Pe * Groups; i++) begin : gen_sum
        localparam int Index = (i / Groups) * WExps + ((WExps > 1) ? (i % Groups) * GroupSize / WBlock : 0);
        assign exp_sum[i*ExpWidth +: ExpWidth] =
          x_exp[(i%Groups)*ExpWidth +: ExpWidth] + ExpWidth'(word[Index*WExpBits +: WExpBits]);
      end
    end

    if (!Aligned) begin : gen_exact
      mase_shift_terms #(
        .Count(Pe * Groups), .SumWidth(SumWidth), .TermWidth(TermWidth), .ExpWidth(ExpWidth), .Delay(StagePart - 1)
      ) u_shift (
        .clk_i (clk_i),
        .exp_i (exp_sum),
        .part_i(part),
        .term_o(term)
      );
    end else begin : gen_aligned
      localparam int M = Pe * ExpWidth;
      logic                       scan_q1, scan_first_q;
      logic [M-1:0]               bias_exp, max_2, bias_down_2;
      logic [M-1:0]               max_exp;    // E, at StageMult
      logic [M-1:0]               bias_down;  // E - bias exponent, at StageAdd
      logic [(StageMult-2)*M-1:0] max_q;
      logic [(StageAdd-2)*M-1:0]  down_q;
      always_ff @(posedge clk_i or negedge rst_ni) begin
        if (!rst_ni) scan_q1 <= 1'b0;
        else scan_q1 <= fire && !mac;
      end
      always_ff @(posedge clk_i) scan_first_q <= k_q == '0;
      mase_rom #(.Width(M), .Depth(OutTiles), .File(BiasExpFile)) u_bias_exp (
        .clk_i (clk_i),
        .addr_i(o_q),
        .data_o(bias_exp)
      );
      mase_align_terms #(
        .Pe(Pe), .Groups(Groups), .SumWidth(SumWidth), .PartWidth(PartWidth), .TermWidth(TermWidth),
        .ExpWidth(ExpWidth), .Guard(Guard), .Delay(StagePart - 1), .RegionBeats(RegionBeats)
      ) u_align (
        .clk_i       (clk_i),
        .rst_ni      (rst_ni),
        .scan_i      (scan_q1),
        .first_i     (scan_first_q),
        .bias_exp_i  (bias_exp),
        .exp_i       (exp_sum),
        .max_o       (max_2),
        .bias_down_o (bias_down_2),
        .part_valid_i(valid_q[StagePart-1]),
        .end_i       (end_q[StagePart-1]),
        .part_i      (part),
        .term_o      (term)
      );
      // Both are at stage 2 and wait for the accumulator.
      always_ff @(posedge clk_i) begin
        max_q  <= ((StageMult - 2) * M)'({max_q, max_2});
        down_q <= ((StageAdd - 2) * M)'({down_q, bias_down_2});
      end
      assign max_exp   = max_q[(StageMult-3)*M +: M];
      assign bias_down = down_q[(StageAdd-3)*M +: M];
    end
  end

  // ---- accumulator: the bias first, then one sum of groups a cycle -------------------------------------------------

  logic [Pe*BiasWidth-1:0] bias;  // at StageAdd
  mase_rom #(.Width(Pe * BiasWidth), .Depth(OutTiles), .File(BiasFile)) u_bias (
    .clk_i (clk_i),
    .addr_i(tile_q[(StageAdd-2)*OWidth +: OWidth]),
    .data_o(bias)
  );

  logic [Pe*AccWidth-1:0] acc;  // at StageAcc
  logic                   add, open_q;
  assign add = valid_q[StageAdd-1] && end_q[StageAdd-1];
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) open_q <= 1'b0;  // a sum has begun
    else if (add) open_q <= !done_q[StageAdd-1];
  end
  for (genvar p = 0; p < Pe; p++) begin : gen_acc
    logic [AccWidth-1:0] start, sum, acc_q;
    if (Aligned) begin : gen_start_aligned
      logic signed [AccWidth-1:0] high;
      assign high  = AccWidth'($signed(bias[p*BiasWidth +: BiasWidth])) << Guard;
      assign start = high >>> gen_exp.gen_aligned.bias_down[p*ExpWidth +: ExpWidth];
    end else begin : gen_start
      assign start = AccWidth'($signed(bias[p*BiasWidth +: BiasWidth]));
    end
    mase_adder_tree #(
      .Count(Groups), .Width(TermWidth), .OutWidth(AccWidth)
    ) u_tree (
      .clk_i (clk_i),
      .data_i(term[p*Groups*TermWidth +: Groups*TermWidth]),
      .sum_o (sum)
    );
    always_ff @(posedge clk_i) begin
      if (add) acc_q <= (open_q ? acc_q : start) + sum;
    end
    assign acc[p*AccWidth +: AccWidth] = acc_q;
  end

  // ---- output multiplier, common grid, rounding --------------------------------------------------------------------

  logic [Pe*TotalWidth-1:0] total;  // at StageMult
  if (MultBits != 0) begin : gen_mult
    logic [Pe*MultBits-1:0] mult;
    mase_rom #(.Width(Pe * MultBits), .Depth(OutTiles), .File(MultFile)) u_mult (
      .clk_i (clk_i),
      .addr_i(tile_q[(StageAdd-1)*OWidth +: OWidth]),
      .data_o(mult)
    );
    for (genvar p = 0; p < Pe; p++) begin : gen_lane
      logic signed [AccWidth-1:0]   a;
      logic signed [MultBits:0]     m;
      logic signed [TotalWidth-1:0] total_q;
      assign a = acc[p*AccWidth +: AccWidth];
      assign m = {1'b0, mult[p*MultBits +: MultBits]};
      always_ff @(posedge clk_i) total_q <= TotalWidth'(a * m);
      assign total[p*TotalWidth +: TotalWidth] = total_q;
    end
  end else begin : gen_no_mult
    assign total = acc;
  end

  logic [Pe*RawWidth-1:0] raw;  // at StageRaw
  if (Aligned) begin : gen_raise
    for (genvar p = 0; p < Pe; p++) begin : gen_lane
      logic [RawWidth-1:0] raw_q;
      always_ff @(posedge clk_i) begin
        raw_q <= RawWidth'($signed(total[p*TotalWidth +: TotalWidth]))
              << gen_exp.gen_aligned.max_exp[p*ExpWidth +: ExpWidth];
      end
      assign raw[p*RawWidth +: RawWidth] = raw_q;
    end
  end else begin : gen_level
    assign raw = total;
  end

  logic [OutBits-1:0] result;  // at StagePush
  for (genvar p = 0; p < Pe; p++) begin : gen_out
    logic [RawWidth-1:0] t;
    assign t = raw[p*RawWidth +: RawWidth];
    if (RawOut) begin : gen_raw
      assign result[p*OutWidth +: OutWidth] = (Relu && t[RawWidth-1]) ? '0 : t;
    end else begin : gen_round
      logic [OutWidth-1:0] y, y_q;
      mase_round #(
        .InWidth(RawWidth), .OutWidth(OutWidth), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft),
        .RoundMode(RoundMode), .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu)
      ) u_round (
        .in_i (t),
        .out_o(y)
      );
      always_ff @(posedge clk_i) y_q <= y;
      assign result[p*OutWidth +: OutWidth] = y_q;
    end
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && produce),
    .credit_o   (credit),
    .push_i     (done_q[StagePush-1]),
    .push_data_i({last_q[StagePush-1], result}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
