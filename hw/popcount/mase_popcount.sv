// Folded linear layer of binary weights and of inputs that are signs: no multiplier, nothing but counted agreements.
//
//   y[o] = round(m[o] * (b[o] + sum over k of x[k] * w[o][k]))     x[k] in -1, 0, 1; w in -1, 1; exact until the rounding
//   sum over k = 2 * (how many x[k] that are not 0 have the sign of w[o][k]) - (how many x[k] are not 0)
//
// The second count serves all outputs. Without HasZero no lane is 0, and that count is Simd. A weight is one bit, 1 for
// -1; lanes beyond Inputs carry 0. Order, replay and timing are those of mase_linear with exact sums
// of integers, whose control, output side and FIFO it shares.

`default_nettype none

module mase_popcount #(
  parameter int Rows = 1,
  parameter int Parts = 1,
  parameter int Inputs = 4,
  parameter int Sets = 1,
  parameter int Outputs = 4,
  parameter int Simd = 2,
  parameter int Pe = 2,
  parameter bit HasZero = 1'b1,
  parameter int AccWidth = 5,
  parameter int BiasWidth = 5,
  parameter int MultBits = 0,  // 0: no multiplier
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
  parameter     WeightFile = "",
  parameter     BiasFile = "",
  parameter     MultFile = "",
  // Derived, do not override.
  parameter int InBits = Simd * 2,
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
  localparam int CountWidth = $clog2(Simd) + 2;  // signed
  localparam int StageAdd = 2 + $clog2(Simd);  // data of a firing at cycle t is visible at t + stage
  localparam int StageAcc = StageAdd + 1;
  localparam int TileStages = (MultBits != 0) ? StageAdd : StageAdd - 1;

  logic                 fire, take, scan, produce, last, k_last, part_last, credit, y_valid, y_last;
  logic [KWidth-1:0]    k;
  logic [TileWidth-1:0] tile;
  logic [InBits-1:0]    x;
  logic [OutBits-1:0]   y;

  mase_linear_control #(
    .Rows(Rows), .Parts(Parts), .PartTiles(PartTiles), .Sets(Sets), .OutTiles(OutTiles), .Aligned(1'b0)
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
    .Width(InBits), .Depth(InTiles), .Keep(OutTiles > 1)
  ) u_replay (
    .clk_i (clk_i),
    .take_i(take),
    .addr_i(k),
    .data_i(in_data_i),
    .data_o(x)
  );

  logic unused;
  assign unused = &{1'b0, scan, k_last, part_last};

  // ---- control that travels with the data: bit s - 1 belongs to stage s -----------------------------------------------

  logic [StageAdd-1:0]             valid_q;
  logic [StageAcc-1:0]             done_q, last_q;
  logic [TileStages*TileWidth-1:0] tile_q;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      valid_q <= '0;
      done_q  <= '0;
    end else begin
      valid_q <= StageAdd'({valid_q, fire});
      done_q  <= StageAcc'({done_q, fire && produce});
    end
  end
  always_ff @(posedge clk_i) begin
    last_q <= StageAcc'({last_q, last});
    tile_q <= (TileStages * TileWidth)'({tile_q, tile});
  end

  // ---- weights, a bit each --------------------------------------------------------------------------------------------

  localparam int WWords = Tiles * InTiles;
  localparam int WAddr = (WWords > 1) ? $clog2(WWords) : 1;
  logic [WAddr-1:0]   w_addr_q;
  logic [Pe*Simd-1:0] w_word;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) w_addr_q <= '0;
    else if (fire) w_addr_q <= (w_addr_q == WAddr'(WWords - 1)) ? '0 : w_addr_q + WAddr'(1);
  end
  mase_rom #(
    .Width(Pe * Simd), .Depth(WWords), .File(WeightFile)
  ) u_weight (
    .clk_i (clk_i),
    .addr_i(w_addr_q),
    .data_o(w_word)
  );

  // ---- agreements, counted --------------------------------------------------------------------------------------------

  logic [Simd-1:0]       negative, some;
  logic [CountWidth-1:0] all;  // how many are not 0, at StageAdd
  for (genvar i = 0; i < Simd; i++) begin : gen_lane
    assign negative[i] = x[2*i+1];
    assign some[i]     = HasZero ? x[2*i] : 1'b1;
  end
  if (HasZero) begin : gen_all
    logic [2*Simd-1:0] one_q;
    for (genvar i = 0; i < Simd; i++) begin : gen_one
      always_ff @(posedge clk_i) one_q[2*i +: 2] <= {1'b0, some[i]};
    end
    mase_adder_tree #(.Count(Simd), .Width(2), .OutWidth(CountWidth)) u_tree (
      .clk_i (clk_i),
      .data_i(one_q),
      .sum_o (all)
    );
  end else begin : gen_none
    assign all = CountWidth'(Simd);
  end

  logic [Pe*BiasWidth-1:0] bias;  // at StageAdd
  mase_rom #(.Width(Pe * BiasWidth), .Depth(Tiles), .File(BiasFile)) u_bias (
    .clk_i (clk_i),
    .addr_i(tile_q[(StageAdd-2)*TileWidth +: TileWidth]),
    .data_o(bias)
  );

  logic                   open_q;
  logic [Pe*AccWidth-1:0] sums;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) open_q <= 1'b0;  // a sum has begun
    else if (valid_q[StageAdd-1]) open_q <= !done_q[StageAdd-1];
  end
  for (genvar p = 0; p < Pe; p++) begin : gen_output
    logic [2*Simd-1:0]     agree_q;
    logic [CountWidth-1:0] count;
    logic [AccWidth-1:0]   start, term, acc_q;
    for (genvar i = 0; i < Simd; i++) begin : gen_agree
      always_ff @(posedge clk_i) agree_q[2*i +: 2] <= {1'b0, some[i] && negative[i] == w_word[p*Simd+i]};
    end
    mase_adder_tree #(.Count(Simd), .Width(2), .OutWidth(CountWidth)) u_tree (
      .clk_i (clk_i),
      .data_i(agree_q),
      .sum_o (count)
    );
    assign start = AccWidth'($signed(bias[p*BiasWidth +: BiasWidth]));
    assign term  = AccWidth'($signed({count, 1'b0})) - AccWidth'($signed(all));
    always_ff @(posedge clk_i) begin
      if (valid_q[StageAdd-1]) acc_q <= (open_q ? acc_q : start) + term;
    end
    assign sums[p*AccWidth +: AccWidth] = acc_q;
  end

  // ---- output side ----------------------------------------------------------------------------------------------------

  logic [Pe*MultPort-1:0] mult;
  if (MultBits != 0) begin : gen_mult
    mase_rom #(.Width(Pe * MultBits), .Depth(Tiles), .File(MultFile)) u_mult (
      .clk_i (clk_i),
      .addr_i(tile_q[(StageAdd-1)*TileWidth +: TileWidth]),
      .data_o(mult)
    );
  end else begin : gen_no_mult
    assign mult = '0;
  end

  mase_output #(
    .Lanes(Pe), .InWidth(AccWidth), .MultBits(MultBits), .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned),
    .Narrow(Narrow), .Relu(Relu), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(done_q[StageAcc-1]),
    .last_i (last_q[StageAcc-1]),
    .t_i    (sums),
    .mult_i (mult),
    .exp_i  ({Pe{1'b0}}),
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
