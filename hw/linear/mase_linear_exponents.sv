// Exponents of a linear unit's group sums: sum_o[p][g] = exponent of x + exponent of w, one cycle after the firing; and
// the factors of their blocks of w.
//
// x_i holds the exponents of x, already one cycle after it. Those of w are read from a ROM: one word for all outputs of
// a tile, a new one every WBlock / Simd beats and for each part of a row; a scan reads the words of its tile, and the pass after it reads them
// again. A field of a word is a factor above an exponent. An operand without exponents counts 0. Control alone is reset.

`default_nettype none

module mase_linear_exponents #(
  parameter int Parts = 1,
  parameter int PartTiles = 2,
  parameter int Tiles = 2,
  parameter int Simd = 2,
  parameter int Pe = 2,
  parameter int Groups = 1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int WExpBits = 0,  // 0: w carries no exponents
  parameter int WFactorBits = 0,  // 0: blocks of w have no factors
  parameter int WBlock = 1,
  parameter int ExpWidth = 1,
  parameter     WeightExpFile = "",
  // Derived, do not override.
  parameter int XExps = (Simd > XBlock) ? Simd / XBlock : 1,
  parameter int XBits = (XExpBits == 0) ? 1 : XExps * XExpBits,
  parameter int FactorPort = (WFactorBits == 0) ? 1 : WFactorBits
) (
  input  wire logic                            clk_i,
  input  wire logic                            rst_ni,
  input  wire logic                            fire_i,
  input  wire logic                            scan_i,
  input  wire logic                            k_last_i,
  input  wire logic                            part_last_i,
  input  wire logic                            produce_i,
  input  wire logic [XBits-1:0]                x_i,
  output      logic [Pe*Groups*ExpWidth-1:0]   sum_o,
  output      logic [Pe*Groups*FactorPort-1:0] factor_o
);

  localparam int GroupSize = Simd / Groups;
  localparam int Field = WFactorBits + WExpBits;

  logic [Groups*ExpWidth-1:0] x_exp;
  for (genvar g = 0; g < Groups; g++) begin : gen_x
    if (XExpBits == 0) begin : gen_none
      assign x_exp[g*ExpWidth +: ExpWidth] = '0;
    end else begin : gen_some
      localparam int Index = (XExps > 1) ? g * GroupSize / XBlock : 0;
      assign x_exp[g*ExpWidth +: ExpWidth] = ExpWidth'(x_i[Index*XExpBits +: XExpBits]);
    end
  end

  if (Field == 0) begin : gen_no_w
    for (genvar i = 0; i < Pe * Groups; i++) begin : gen_sum
      assign sum_o[i*ExpWidth +: ExpWidth] = x_exp[(i%Groups)*ExpWidth +: ExpWidth];
    end
    assign factor_o = '0;
    logic unused;
    assign unused = &{1'b0, clk_i, rst_ni, fire_i, scan_i, k_last_i, part_last_i, produce_i};
  end else begin : gen_w
    localparam int WExps = (Simd > WBlock) ? Simd / WBlock : 1;
    localparam int WordBeats = (WBlock > Simd) ? WBlock / Simd : 1;
    localparam int Words = Tiles * Parts * ((PartTiles + WordBeats - 1) / WordBeats);
    localparam int Addr = (Words > 1) ? $clog2(Words) : 1;
    localparam int BeatWidth = (WordBeats > 1) ? $clog2(WordBeats) : 1;
    logic [Addr-1:0]              addr_q, next_tile, tile_start_q;
    logic [BeatWidth-1:0]         beat_q;
    logic                         beat_last;
    logic [Pe*WExps*Field-1:0]    word;

    assign beat_last = beat_q == BeatWidth'(WordBeats - 1);
    assign next_tile = (addr_q == Addr'(Words - 1)) ? '0 : addr_q + Addr'(1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) begin
        addr_q       <= '0;
        tile_start_q <= '0;
        beat_q       <= '0;
      end else if (fire_i) begin
        beat_q <= (part_last_i || beat_last) ? '0 : beat_q + BeatWidth'(1);
        if (k_last_i && scan_i) addr_q <= tile_start_q;
        else if (part_last_i || beat_last) addr_q <= next_tile;
        if (produce_i) tile_start_q <= next_tile;
      end
    end
    mase_rom #(
      .Width(Pe * WExps * Field), .Depth(Words), .File(WeightExpFile)
    ) u_weight_exp (
      .clk_i (clk_i),
      .addr_i(addr_q),
      .data_o(word)
    );
    for (genvar i = 0; i < Pe * Groups; i++) begin : gen_sum
      localparam int Index = (i / Groups) * WExps + ((WExps > 1) ? (i % Groups) * GroupSize / WBlock : 0);
      if (WExpBits == 0) begin : gen_x_alone
        assign sum_o[i*ExpWidth +: ExpWidth] = x_exp[(i%Groups)*ExpWidth +: ExpWidth];
      end else begin : gen_both
        assign sum_o[i*ExpWidth +: ExpWidth] =
          x_exp[(i%Groups)*ExpWidth +: ExpWidth] + ExpWidth'(word[Index*Field +: WExpBits]);
      end
      if (WFactorBits == 0) begin : gen_no_factor
        assign factor_o[i*FactorPort +: FactorPort] = '0;
      end else begin : gen_factor
        assign factor_o[i*FactorPort +: FactorPort] = word[Index*Field + WExpBits +: FactorPort];
      end
    end
  end

  if (XExpBits == 0) begin : gen_unused_x
    logic unused;
    assign unused = &{1'b0, x_i};
  end

endmodule

`default_nettype wire
