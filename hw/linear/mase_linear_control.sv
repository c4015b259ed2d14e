// When a linear unit fires, and on what: for row, for o in tiles of outputs, for k in beats of the row.
//
// fire_o: beat k_o and tile tile_o enter the pipeline; part_last_o: it is the last beat of one of the Parts parts of a
// row. Row r has the tiles of set r modulo Sets. take_o: the beat comes from the input (o = 0), otherwise from the
// replay buffer. Aligned: each tile has two passes over the row, the first one, scan_o, for the exponents; the first
// scan takes the row. produce_o: the firing completes a tile and takes a credit; last_o: the last tile of a sample.
// in_ready_o comes from registers and from credit_i, which is one.

`default_nettype none

module mase_linear_control #(
  parameter int Rows = 1,
  parameter int Parts = 1,
  parameter int PartTiles = 2,
  parameter int Sets = 1,
  parameter int OutTiles = 2,
  parameter bit Aligned = 1'b0,
  // Derived, do not override.
  parameter int InTiles = Parts * PartTiles,
  parameter int Tiles = Sets * OutTiles,
  parameter int KWidth = (InTiles > 1) ? $clog2(InTiles) : 1,
  parameter int TileWidth = (Tiles > 1) ? $clog2(Tiles) : 1
) (
  input  wire logic                 clk_i,
  input  wire logic                 rst_ni,

  input  wire logic                 in_valid_i,
  output      logic                 in_ready_o,
  input  wire logic                 credit_i,

  output      logic                 fire_o,
  output      logic                 take_o,
  output      logic                 scan_o,
  output      logic                 produce_o,
  output      logic                 last_o,
  output      logic [KWidth-1:0]    k_o,
  output      logic                 k_last_o,
  output      logic                 part_last_o,
  output      logic [TileWidth-1:0] tile_o
);

  localparam int RWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam int OWidth = (OutTiles > 1) ? $clog2(OutTiles) : 1;

  logic [KWidth-1:0] k_q;
  logic [OWidth-1:0] o_q;
  logic [RWidth-1:0] row_q;
  logic              scan_q, scan, k_last, o_last, row_last, need_in, produce, fire;

  assign k_last     = k_q == KWidth'(InTiles - 1);
  assign o_last     = o_q == OWidth'(OutTiles - 1);
  assign row_last   = row_q == RWidth'(Rows - 1);
  assign scan       = Aligned && scan_q;
  assign need_in    = o_q == '0 && (!Aligned || scan);
  assign produce    = k_last && !scan;
  assign in_ready_o = need_in && (!produce || credit_i);
  assign fire       = (!need_in || in_valid_i) && (!produce || credit_i);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      k_q    <= '0;
      o_q    <= '0;
      row_q  <= '0;
      scan_q <= 1'b1;
    end else if (fire) begin
      k_q <= k_last ? '0 : k_q + KWidth'(1);
      if (k_last) scan_q <= !scan_q;
      if (produce) begin
        o_q <= o_last ? '0 : o_q + OWidth'(1);
        if (o_last) row_q <= row_last ? '0 : row_q + RWidth'(1);
      end
    end
  end

  assign fire_o    = fire;
  assign take_o    = fire && need_in;
  assign scan_o    = scan;
  assign produce_o = produce;
  assign last_o    = row_last && o_last;
  assign k_o       = k_q;
  assign k_last_o  = k_last;

  if (Parts == 1) begin : gen_one_part
    assign part_last_o = k_last;
  end else if (PartTiles == 1) begin : gen_short_parts
    assign part_last_o = 1'b1;
  end else begin : gen_parts
    localparam int PartWidth = $clog2(PartTiles);
    logic [PartWidth-1:0] part_q;
    assign part_last_o = part_q == PartWidth'(PartTiles - 1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) part_q <= '0;
      else if (fire) part_q <= part_last_o ? '0 : part_q + PartWidth'(1);
    end
  end

  if (Sets == 1) begin : gen_one_set
    assign tile_o = o_q;
  end else begin : gen_sets
    logic [TileWidth-1:0] tile_q;
    assign tile_o = tile_q;
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) tile_q <= '0;
      else if (fire && produce) tile_q <= (tile_q == TileWidth'(Tiles - 1)) ? '0 : tile_q + TileWidth'(1);
    end
  end

endmodule

`default_nettype wire
