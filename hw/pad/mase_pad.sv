// Border of one constant code around an image: Top and Bottom rows, Left and Right columns of pixels.
//
// The image travels row by row, pixel by pixel, Beats beats a pixel. A beat is Lanes codes, then an exponent for each
// block that it touches. The border has the code Mantissa, in blocks the exponent field Exponent, in the lanes that
// count: Tail of the last beat of a pixel, all of the others; what lies above them is 0, as in the image.
// Order: rows from top to bottom, columns from left to right. One beat a cycle: a beat of the image is taken in the cycle
// in which it is due, a beat of the border needs none, but the first one waits until an image is there. Latency 2 cycles
// from firing to out_valid_o.
// in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_pad #(
  parameter int Height = 2,
  parameter int Width = 2,
  parameter int Top = 1,
  parameter int Bottom = 1,
  parameter int Left = 1,
  parameter int Right = 1,
  parameter int Beats = 1,
  parameter int Lanes = 1,
  parameter int Tail = 1,
  parameter int CodeWidth = 8,
  parameter int ExpBits = 0,  // 0: no exponents
  parameter int Block = 1,
  parameter int Mantissa = 0,
  parameter int Exponent = 0,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int Exps = (ExpBits == 0) ? 0 : (Lanes > Block) ? Lanes / Block : 1,
  parameter int Bits = Lanes * CodeWidth + Exps * ExpBits
) (
  input  wire logic            clk_i,
  input  wire logic            rst_ni,

  input  wire logic            in_valid_i,
  output      logic            in_ready_o,
  input  wire logic [Bits-1:0] in_data_i,

  output      logic            out_valid_o,
  input  wire logic            out_ready_i,
  output      logic [Bits-1:0] out_data_o,
  output      logic            out_last_o
);

  localparam int OutHeight = Height + Top + Bottom;
  localparam int OutWidth = Width + Left + Right;
  // Counters can hold one more than they count to, so that a place before the image, less its start, is beyond its end.
  localparam int RowWidth = $clog2(OutHeight + 1);
  localparam int ColWidth = $clog2(OutWidth + 1);
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic [RowWidth-1:0]  row_q, image_row;
  logic [ColWidth-1:0]  col_q, image_col;
  logic [BeatWidth-1:0] beat_q;
  logic                 row_last, col_last, beat_last, first, in_image, credit, fire;

  assign row_last   = row_q == RowWidth'(OutHeight - 1);
  assign col_last   = col_q == ColWidth'(OutWidth - 1);
  assign beat_last  = beat_q == BeatWidth'(Beats - 1);
  assign first      = row_q == '0 && col_q == '0 && beat_q == '0;
  assign image_row  = row_q - RowWidth'(Top);
  assign image_col  = col_q - ColWidth'(Left);
  assign in_image   = image_row < RowWidth'(Height) && image_col < ColWidth'(Width);
  assign in_ready_o = in_image && credit;
  assign fire       = credit && (in_valid_i || !(in_image || first));

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      row_q  <= '0;
      col_q  <= '0;
      beat_q <= '0;
    end else if (fire) begin
      beat_q <= beat_last ? '0 : beat_q + BeatWidth'(1);
      if (beat_last) col_q <= col_last ? '0 : col_q + ColWidth'(1);
      if (beat_last && col_last) row_q <= row_last ? '0 : row_q + RowWidth'(1);
    end
  end

  // ---- the border's beat -------------------------------------------------------------------------------------------

  localparam int TailExps = (Exps > 1) ? (Tail + Block - 1) / Block : 1;
  logic [Bits-1:0] border;
  for (genvar i = 0; i < Lanes; i++) begin : gen_lane
    assign border[i*CodeWidth +: CodeWidth] = (i < Tail || !beat_last) ? CodeWidth'(Mantissa) : '0;
  end
  for (genvar i = 0; i < Exps; i++) begin : gen_exponent
    assign border[Lanes*CodeWidth + i*ExpBits +: ExpBits] = (i < TailExps || !beat_last) ? ExpBits'(Exponent) : '0;
  end

  // ---- output ------------------------------------------------------------------------------------------------------

  logic            push_q, last_q;
  logic [Bits-1:0] beat_data_q;
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) push_q <= 1'b0;
    else push_q <= fire;
  end
  always_ff @(posedge clk_i) begin
    beat_data_q <= in_image ? in_data_i : border;
    last_q      <= row_last && col_last && beat_last;
  end

  mase_credit_fifo #(.Width(Bits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (push_q),
    .push_data_i({last_q, beat_data_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_pad_formal.svh"
`endif

endmodule

`default_nettype wire
