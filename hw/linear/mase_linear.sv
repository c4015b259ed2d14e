// Folded linear layer: output-stationary, Simd inputs times Pe outputs a cycle, one rounding.
//
//   y[o] = round(m[o] * (b[o] + sum over k of x[k] * w[o][k]))     exact until the rounding
//
// Integer mantissas; where blocks of w have factors each group sum is multiplied by its own. Where x or w carry block
// exponents each group sum P is shifted by its exponents e first:
// left by e (exact), or, with Aligned, (P << Guard) >>> (E - e) under E = max over all e of this output, which a
// scan of the exponents finds before the sum starts. RawOut leaves t = m * sum (<< E) unrounded for block_normalise.
// Order: for row, for o in tiles of Pe, for k in beats of Simd; the row is replayed from a buffer for o > 0.
// A row is Parts parts of Inputs inputs; beats and blocks never span two of them. Row r has the outputs of set r modulo
// Sets, each of which has its own weights.
// Parts: control (what fires), replay (the row), core (sums), output (one rounding), FIFO.
// One firing a cycle (two passes a tile with Aligned); latency: docs/arithmetic.md, 9.
// in_ready_o and out_valid_o come from registers; the pipeline runs freely into an output FIFO with credits.

`default_nettype none

module mase_linear #(
  parameter int Rows = 1,
  parameter int Parts = 1,
  parameter int Inputs = 4,
  parameter int Sets = 1,
  parameter int Outputs = 4,
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
  parameter int Zero = 0,
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

  localparam int PartTiles = (Inputs + Simd - 1) / Simd;
  localparam int InTiles = Parts * PartTiles;
  localparam int OutTiles = (Outputs + Pe - 1) / Pe;
  localparam int Tiles = Sets * OutTiles;
  localparam int KWidth = (InTiles > 1) ? $clog2(InTiles) : 1;
  localparam int TileWidth = (Tiles > 1) ? $clog2(Tiles) : 1;
  localparam int MultPort = (MultBits != 0) ? MultBits : 1;

  logic                   fire, take, scan, produce, last, k_last, part_last, credit;
  logic                   sum_valid, sum_last, y_valid, y_last;
  logic [KWidth-1:0]      k;
  logic [TileWidth-1:0]   tile;
  logic [InBits-1:0]      x;
  logic [Pe*AccWidth-1:0] sum;
  logic [Pe*MultPort-1:0] mult;
  logic [Pe*ExpWidth-1:0] max_exp;
  logic [OutBits-1:0]     y;

  mase_linear_control #(
    .Rows(Rows), .Parts(Parts), .PartTiles(PartTiles), .Sets(Sets), .OutTiles(OutTiles), .Aligned(Aligned)
  ) u_control (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .in_valid_i (in_valid_i),
    .in_ready_o (in_ready_o),
    .credit_i   (credit),
    .fire_o     (fire),
    .take_o     (take),
    .scan_o     (scan),
    .produce_o  (produce),
    .last_o     (last),
    .k_o        (k),
    .k_last_o   (k_last),
    .part_last_o(part_last),
    .tile_o     (tile)
  );

  mase_replay #(
    .Width(InBits), .Depth(InTiles), .Keep(OutTiles > 1 || Aligned)
  ) u_replay (
    .clk_i (clk_i),
    .take_i(take),
    .addr_i(k),
    .data_i(in_data_i),
    .data_o(x)
  );

  mase_linear_core #(
    .Parts(Parts), .PartTiles(PartTiles), .Tiles(Tiles), .Simd(Simd), .Pe(Pe), .XWidth(XWidth), .XSigned(XSigned),
    .XExpBits(XExpBits), .XBlock(XBlock), .WWidth(WWidth), .WPower(WPower), .WExp(WExp), .WFactor(WFactor),
    .WZero(WZero), .WExpBits(WExpBits), .WFactorBits(WFactorBits), .WBlock(WBlock), .Aligned(Aligned), .Guard(Guard),
    .ExpWidth(ExpWidth), .AccWidth(AccWidth), .BiasWidth(BiasWidth), .MultBits(MultBits), .WeightFile(WeightFile),
    .WeightExpFile(WeightExpFile), .BiasFile(BiasFile), .BiasExpFile(BiasExpFile), .MultFile(MultFile)
  ) u_core (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .fire_i     (fire),
    .scan_i     (scan),
    .first_i    (k == '0),
    .k_last_i   (k_last),
    .part_last_i(part_last),
    .produce_i  (produce),
    .last_i     (last),
    .tile_i     (tile),
    .x_i        (x),
    .valid_o    (sum_valid),
    .last_o     (sum_last),
    .sum_o      (sum),
    .mult_o     (mult),
    .exp_o      (max_exp)
  );

  mase_output #(
    .Lanes(Pe), .InWidth(AccWidth), .MultBits(MultBits), .Aligned(Aligned), .ExpWidth(ExpWidth), .ExpMax(ExpMax),
    .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned), .Narrow(Narrow), .Relu(Relu),
    .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(sum_valid),
    .last_i (sum_last),
    .t_i    (sum),
    .mult_i (mult),
    .exp_i  (max_exp),
    .valid_o(y_valid),
    .last_o (y_last),
    .y_o    (y)
  );

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && produce),
    .credit_o   (credit),
    .push_i     (y_valid),
    .push_data_i({y_last, y}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
