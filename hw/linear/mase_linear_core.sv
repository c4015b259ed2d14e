// The arithmetic of a linear unit: products, group sums, exponents, accumulators; Simd times Pe a cycle.
//
//   sum_o[p] = b[o] + sum over k of x[k] * w[o][k]           exact; with block exponents each group sum is shifted first
//
// x_i comes one cycle after its firing. Exact: a group sum P goes left by its exponents e. Aligned: (P << Guard) >>>
// (E - e) under E = max over all e of this output, which the scan finds; exp_o is E, to shift the sum left at the end.
// sum_o, mult_o (of the tile's outputs), exp_o and valid_o come together, StageAcc cycles after the firing that ends a
// tile. Free running: no handshake; control alone is reset.

`default_nettype none

module mase_linear_core #(
  parameter int Parts = 1,
  parameter int PartTiles = 2,
  parameter int Tiles = 2,
  parameter int Simd = 2,
  parameter int Pe = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int WWidth = 8,     // of a stored weight, see mase_product
  parameter bit WPower = 1'b0,
  parameter int WExp = 0,
  parameter int WFactor = WWidth,  // bits that a weight adds to a product
  parameter bit WZero = 1'b0,
  parameter int WExpBits = 0,  // 0: w carries no exponents
  parameter int WFactorBits = 0,  // 0: blocks of w have no factors
  parameter int WBlock = 1,
  parameter bit Aligned = 1'b0,
  parameter int Guard = 0,
  parameter int ExpWidth = 1,
  parameter int AccWidth = 18,
  parameter int BiasWidth = 18,
  parameter int MultBits = 0,  // 0: no multiplier
  parameter     WeightFile = "",
  parameter     WeightExpFile = "",
  parameter     BiasFile = "",
  parameter     BiasExpFile = "",
  parameter     MultFile = "",
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Simd > XBlock) ? Simd / XBlock : 1,
  parameter int InBits = Simd * XWidth + XExps * XExpBits,
  parameter int TileWidth = (Tiles > 1) ? $clog2(Tiles) : 1,
  parameter int MultPort = (MultBits != 0) ? MultBits : 1
) (
  input  wire logic                   clk_i,
  input  wire logic                   rst_ni,

  input  wire logic                   fire_i,
  input  wire logic                   scan_i,
  input  wire logic                   first_i,
  input  wire logic                   k_last_i,
  input  wire logic                   part_last_i,
  input  wire logic                   produce_i,
  input  wire logic                   last_i,
  input  wire logic [TileWidth-1:0]   tile_i,
  input  wire logic [InBits-1:0]      x_i,

  output      logic                   valid_o,
  output      logic                   last_o,
  output      logic [Pe*AccWidth-1:0] sum_o,
  output      logic [Pe*MultPort-1:0] mult_o,
  output      logic [Pe*ExpWidth-1:0] exp_o
);

  // ---- sizes ---------------------------------------------------------------------------------------------------

  localparam bit HasExp = (XExpBits != 0) || (WExpBits != 0);
  localparam bit HasFactor = WFactorBits != 0;
  localparam int FactorPort = HasFactor ? WFactorBits : 1;
  localparam int XGroup = (XExpBits == 0 || XBlock > Simd) ? Simd : XBlock;
  localparam int WGroup = ((WExpBits == 0 && !HasFactor) || WBlock > Simd) ? Simd : WBlock;
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
  localparam int FullDot = XWidth + (XSigned ? 0 : 1) + WFactor + $clog2(GroupSize);
  localparam int FullWidth = FullDot + WFactorBits;
  // No sum of a beat or of a region takes more bits than the accumulator leaves for it.
  localparam int SumMost = Aligned ? AccWidth - Guard : HasExp ? FullWidth : AccWidth;
  localparam int SumWidth = (FullWidth < SumMost) ? FullWidth : SumMost;
  localparam int DotWidth = (FullDot < SumWidth) ? FullDot : SumWidth;
  localparam int PartFull = SumWidth + (Regions ? $clog2(RegionBeats) : 0);
  localparam int PartWidth = (Aligned && PartFull > SumMost) ? SumMost : PartFull;
  localparam int TermWidth = HasExp ? AccWidth : SumWidth;

  // Stages: data of a firing at cycle t is visible at t + stage.
  localparam int StageDot = 2 + $clog2(GroupSize);                   // group sums, without their factors
  localparam int StagePart = StageDot + (HasFactor ? 1 : 0);         // group sums
  localparam int StageTerm = StagePart + (Regions ? 1 : 0) + (HasExp ? 1 : 0);  // shifted terms
  localparam int StageAdd = StageTerm + $clog2(Groups);              // what the accumulator adds
  localparam int StageAcc = StageAdd + 1;

  // ---- control that travels with the data ------------------------------------------------------------------------

  // Bit s - 1 of each shift register belongs to stage s.
  logic                        region_end;
  localparam int TileStages = (MultBits != 0) ? StageAdd : StageAdd - 1;
  logic [StageAdd-1:0]          valid_q, end_q;
  logic [StageAcc-1:0]          done_q, last_q;
  logic [TileStages*TileWidth-1:0] tile_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_q <= '0;
      done_q  <= '0;
    end else begin
      valid_q <= StageAdd'({valid_q, fire_i && !scan_i});
      done_q  <= StageAcc'({done_q, fire_i && produce_i});
    end
  end
  always_ff @(posedge clk_i) begin
    end_q  <= StageAdd'({end_q, region_end});
    last_q <= StageAcc'({last_q, last_i});
    tile_q <= (TileStages * TileWidth)'({tile_q, tile_i});
  end

  if (RegionBeats > 1) begin : gen_region_end
    localparam int BeatWidth = $clog2(RegionBeats);
    logic [BeatWidth-1:0] beat_q;
    assign region_end = part_last_i || beat_q == BeatWidth'(RegionBeats - 1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) beat_q <= '0;
      else if (fire_i) beat_q <= region_end ? '0 : beat_q + BeatWidth'(1);
    end
  end else begin : gen_every_beat
    assign region_end = 1'b1;
  end

  // ---- weights ---------------------------------------------------------------------------------------------------

  localparam int WWords = Tiles * Parts * PartTiles;
  localparam int WAddr = (WWords > 1) ? $clog2(WWords) : 1;
  logic [WAddr-1:0]          w_addr_q;
  logic [Pe*Simd*WWidth-1:0] w_word;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) w_addr_q <= '0;
    else if (fire_i && !scan_i) w_addr_q <= (w_addr_q == WAddr'(WWords - 1)) ? '0 : w_addr_q + WAddr'(1);
  end

  mase_rom #(
    .Width(Pe * Simd * WWidth), .Depth(WWords), .File(WeightFile)
  ) u_weight (
    .clk_i (clk_i),
    .addr_i(w_addr_q),
    .data_o(w_word)
  );

  // ---- products and group sums -----------------------------------------------------------------------------------

  logic [Pe*Groups*DotWidth-1:0] dot;   // at StageDot
  logic [Pe*Groups*SumWidth-1:0] part;  // at StagePart
  for (genvar p = 0; p < Pe; p++) begin : gen_dot
    mase_dot_product #(
      .Groups(Groups), .GroupSize(GroupSize), .XWidth(XWidth), .XSigned(XSigned), .WWidth(WWidth),
      .WPower(WPower), .WExp(WExp), .WFactor(WFactor), .WZero(WZero), .SumWidth(DotWidth)
    ) u_dot (
      .clk_i(clk_i),
      .x_i  (x_i[Simd*XWidth-1:0]),
      .w_i  (w_word[p*Simd*WWidth +: Simd*WWidth]),
      .sum_o(dot[p*Groups*DotWidth +: Groups*DotWidth])
    );
  end

  // ---- exponents: shift each group sum ---------------------------------------------------------------------------

  logic [Pe*Groups*TermWidth-1:0] term;       // at StageTerm

  if (!HasFactor) begin : gen_no_factor
    assign part = dot;
  end
  if (!HasExp) begin : gen_no_exps
    for (genvar i = 0; i < Pe * Groups; i++) begin : gen_term
      assign term[i*TermWidth +: TermWidth] = part[i*SumWidth +: TermWidth];
    end
  end
  if (HasExp || HasFactor) begin : gen_exp
    localparam int XBits = (XExpBits == 0) ? 1 : XExps * XExpBits;
    logic [XBits-1:0]              x_exp;
    logic [Pe*Groups*ExpWidth-1:0]   exp_sum;  // at stage 1
    logic [Pe*Groups*FactorPort-1:0] factor;   // beside it
    if (XExpBits == 0) begin : gen_no_x
      assign x_exp = '0;
    end else begin : gen_x
      assign x_exp = x_i[Simd*XWidth +: XBits];
    end
    mase_linear_exponents #(
      .Parts(Parts), .PartTiles(PartTiles), .Tiles(Tiles), .Simd(Simd), .Pe(Pe), .Groups(Groups),
      .XExpBits(XExpBits), .XBlock(XBlock), .WExpBits(WExpBits), .WFactorBits(WFactorBits), .WBlock(WBlock),
      .ExpWidth(ExpWidth), .WeightExpFile(WeightExpFile)
    ) u_exponents (
      .clk_i      (clk_i),
      .rst_ni     (rst_ni),
      .fire_i     (fire_i),
      .scan_i     (scan_i),
      .k_last_i   (k_last_i),
      .part_last_i(part_last_i),
      .produce_i  (produce_i),
      .x_i        (x_exp),
      .sum_o      (exp_sum),
      .factor_o   (factor)
    );

    if (HasFactor) begin : gen_factor
      mase_scale_terms #(
        .Count(Pe * Groups), .SumWidth(DotWidth), .FactorBits(FactorPort), .OutWidth(SumWidth), .Delay(StageDot - 1)
      ) u_scale (
        .clk_i   (clk_i),
        .factor_i(factor),
        .part_i  (dot),
        .term_o  (part)
      );
    end else begin : gen_unscaled
      logic unused;
      assign unused = &{1'b0, factor};
    end

    if (!HasExp) begin : gen_level
      logic unused;
      assign unused = &{1'b0, exp_sum};
    end else if (!Aligned) begin : gen_exact
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
      logic                      scan_q1, scan_first_q;
      logic [M-1:0]              bias_exp, max_2, bias_down_2;
      logic [M-1:0]              bias_down;  // E - bias exponent, at StageAdd
      logic [(StageAcc-2)*M-1:0] max_q;
      logic [(StageAdd-2)*M-1:0] down_q;
      always_ff @(posedge clk_i or negedge rst_ni) begin
        if (!rst_ni) scan_q1 <= 1'b0;
        else scan_q1 <= fire_i && scan_i;
      end
      always_ff @(posedge clk_i) scan_first_q <= first_i;
      mase_rom #(.Width(M), .Depth(Tiles), .File(BiasExpFile)) u_bias_exp (
        .clk_i (clk_i),
        .addr_i(tile_i),
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
        max_q  <= ((StageAcc - 2) * M)'({max_q, max_2});
        down_q <= ((StageAdd - 2) * M)'({down_q, bias_down_2});
      end
      assign exp_o     = max_q[(StageAcc-3)*M +: M];
      assign bias_down = down_q[(StageAdd-3)*M +: M];
    end
  end

  // ---- accumulator: the bias first, then one sum of groups a cycle -------------------------------------------------

  logic [Pe*BiasWidth-1:0] bias;  // at StageAdd
  mase_rom #(.Width(Pe * BiasWidth), .Depth(Tiles), .File(BiasFile)) u_bias (
    .clk_i (clk_i),
    .addr_i(tile_q[(StageAdd-2)*TileWidth +: TileWidth]),
    .data_o(bias)
  );

  logic add, open_q;
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
    assign sum_o[p*AccWidth +: AccWidth] = acc_q;
  end

  // ---- what leaves with the sum --------------------------------------------------------------------------------------

  assign valid_o = done_q[StageAcc-1];
  assign last_o  = last_q[StageAcc-1];
  if (MultBits != 0) begin : gen_mult
    mase_rom #(.Width(Pe * MultBits), .Depth(Tiles), .File(MultFile)) u_mult (
      .clk_i (clk_i),
      .addr_i(tile_q[(StageAdd-1)*TileWidth +: TileWidth]),
      .data_o(mult_o)
    );
  end else begin : gen_no_mult
    assign mult_o = '0;
  end
  if (!Aligned) begin : gen_no_exp
    logic unused;
    assign unused = &{1'b0, first_i, k_last_i, part_last_i, scan_i};
    assign exp_o  = '0;
  end

endmodule

`default_nettype wire
