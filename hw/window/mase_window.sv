// Windows of an image, one after the other, from a cyclic buffer of Depth beats.
//
// The image travels row by row, pixel by pixel, Groups * Beats beats a pixel. Each window gives, for each group, its
// pixels in rows of KernelWidth, of each pixel the Beats beats of the group: order (row of windows, window, group, row,
// column, beat). Windows begin Stride apart and take every Dilation-th pixel; they never leave the image.
// Firing: one beat in and one beat out a cycle. level_q counts the beats written since the start of the present window;
// it is negative where windows leave pixels out that have not come yet. A window begins once all its beats are there,
// which are Span consecutive ones; its last beat gives the slots before the next window back. Depth is at least Span.
// Latency: 1 cycle from taking the last beat of a window to its first firing, 2 cycles from firing to out_valid_o.
// in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_window #(
  parameter int Height = 3,
  parameter int Width = 3,
  parameter int KernelHeight = 2,
  parameter int KernelWidth = 2,
  parameter int StrideHeight = 1,
  parameter int StrideWidth = 1,
  parameter int DilationHeight = 1,
  parameter int DilationWidth = 1,
  parameter int Groups = 1,
  parameter int Beats = 1,
  parameter int Bits = 8,
  parameter int Depth = 6,
  parameter int FifoDepth = 2
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

  // ---- sizes, in beats -----------------------------------------------------------------------------------------

  localparam int Pixel = Groups * Beats;
  localparam int Row = Width * Pixel;
  localparam int OutHeight = (Height - (KernelHeight - 1) * DilationHeight - 1) / StrideHeight + 1;
  localparam int OutWidth = (Width - (KernelWidth - 1) * DilationWidth - 1) / StrideWidth + 1;
  localparam int Far = (KernelHeight - 1) * DilationHeight * Row + (KernelWidth - 1) * DilationWidth * Pixel;
  localparam int Span = Far + Pixel;
  // From the start of a window to that of the next: in a row, in the next row, in the next image.
  localparam int NextCol = StrideWidth * Pixel;
  localparam int NextRow = StrideHeight * Row - (OutWidth - 1) * NextCol;
  localparam int NextImage = Height * Row - (OutHeight - 1) * StrideHeight * Row - (OutWidth - 1) * NextCol;
  localparam int MostNext = (NextImage > NextRow) ? NextImage : (NextRow > NextCol) ? NextRow : NextCol;

  // Steps of the address, which go round.
  function automatic int around(input int beats);
    around = ((beats % Depth) + Depth) % Depth;
  endfunction
  localparam int StepKernelCol = around(DilationWidth * Pixel - Beats + 1);
  localparam int StepKernelRow = around(DilationHeight * Row - (KernelWidth - 1) * DilationWidth * Pixel - Beats + 1);
  localparam int StepGroup = around(1 - Far);
  localparam int StepCol = around(NextCol - Span + 1);
  localparam int StepRow = around(NextRow - Span + 1);
  localparam int StepImage = around(NextImage - Span + 1);

  localparam int AddrWidth = (Depth > 1) ? $clog2(Depth) : 1;
  localparam int LevelMost = (Depth > MostNext) ? Depth : MostNext;
  localparam int LevelWidth = $clog2(LevelMost + 1) + 1;
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int KernelColWidth = (KernelWidth > 1) ? $clog2(KernelWidth) : 1;
  localparam int KernelRowWidth = (KernelHeight > 1) ? $clog2(KernelHeight) : 1;
  localparam int GroupWidth = (Groups > 1) ? $clog2(Groups) : 1;
  localparam int ColWidth = (OutWidth > 1) ? $clog2(OutWidth) : 1;
  localparam int RowWidth = (OutHeight > 1) ? $clog2(OutHeight) : 1;

  // ---- the nest --------------------------------------------------------------------------------------------------

  logic [BeatWidth-1:0]      beat_q;
  logic [KernelColWidth-1:0] kernel_col_q;
  logic [KernelRowWidth-1:0] kernel_row_q;
  logic [GroupWidth-1:0]     group_q;
  logic [ColWidth-1:0]       col_q;
  logic [RowWidth-1:0]       row_q;
  logic beat_last, kernel_col_last, kernel_row_last, group_last, col_last, row_last;
  logic pixel_end, tap_row_end, group_end, window_end, row_end;

  assign beat_last       = beat_q == BeatWidth'(Beats - 1);
  assign kernel_col_last = kernel_col_q == KernelColWidth'(KernelWidth - 1);
  assign kernel_row_last = kernel_row_q == KernelRowWidth'(KernelHeight - 1);
  assign group_last      = group_q == GroupWidth'(Groups - 1);
  assign col_last        = col_q == ColWidth'(OutWidth - 1);
  assign row_last        = row_q == RowWidth'(OutHeight - 1);
  assign pixel_end       = beat_last;
  assign tap_row_end     = pixel_end && kernel_col_last;
  assign group_end       = tap_row_end && kernel_row_last;
  assign window_end      = group_end && group_last;
  assign row_end         = window_end && col_last;

  logic signed [LevelWidth-1:0] level_q, more, less;
  logic                         open_q, take, credit, fire;

  assign in_ready_o = level_q < LevelWidth'(Depth);
  assign take       = in_valid_i && in_ready_o;
  assign fire       = credit && (open_q || level_q >= LevelWidth'(Span));
  assign more       = take ? LevelWidth'(1) : '0;
  assign less       = !(fire && window_end) ? '0
                    : !col_last ? LevelWidth'(NextCol) : !row_last ? LevelWidth'(NextRow) : LevelWidth'(NextImage);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      level_q      <= '0;
      open_q       <= 1'b0;
      beat_q       <= '0;
      kernel_col_q <= '0;
      kernel_row_q <= '0;
      group_q      <= '0;
      col_q        <= '0;
      row_q        <= '0;
    end else begin
      level_q <= level_q + more - less;
      if (fire) begin
        open_q <= !window_end;  // all beats of a window that has begun are there
        beat_q <= beat_last ? '0 : beat_q + BeatWidth'(1);
        if (pixel_end) kernel_col_q <= kernel_col_last ? '0 : kernel_col_q + KernelColWidth'(1);
        if (tap_row_end) kernel_row_q <= kernel_row_last ? '0 : kernel_row_q + KernelRowWidth'(1);
        if (group_end) group_q <= group_last ? '0 : group_q + GroupWidth'(1);
        if (window_end) col_q <= col_last ? '0 : col_q + ColWidth'(1);
        if (row_end) row_q <= row_last ? '0 : row_q + RowWidth'(1);
      end
    end
  end

  // ---- the buffer --------------------------------------------------------------------------------------------------

  logic [AddrWidth-1:0] write_q, read_q, step;
  logic [AddrWidth:0]   sum;

  always_comb begin
    if (!pixel_end) step = AddrWidth'(around(1));
    else if (!kernel_col_last) step = AddrWidth'(StepKernelCol);
    else if (!kernel_row_last) step = AddrWidth'(StepKernelRow);
    else if (!group_last) step = AddrWidth'(StepGroup);
    else if (!col_last) step = AddrWidth'(StepCol);
    else if (!row_last) step = AddrWidth'(StepRow);
    else step = AddrWidth'(StepImage);
  end
  assign sum = {1'b0, read_q} + {1'b0, step};

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_q <= '0;
      read_q  <= '0;
    end else begin
      if (take) write_q <= (write_q == AddrWidth'(Depth - 1)) ? '0 : write_q + AddrWidth'(1);
      if (fire) read_q <= AddrWidth'((sum >= (AddrWidth + 1)'(Depth)) ? sum - (AddrWidth + 1)'(Depth) : sum);
    end
  end

  logic [Bits-1:0] memory_q [Depth];
  logic [Bits-1:0] beat_data_q;
  logic            push_q, last_q;
  always_ff @(posedge clk_i) begin
    if (take) memory_q[write_q] <= in_data_i;
    beat_data_q <= memory_q[read_q];
    last_q      <= row_end && row_last;
  end
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) push_q <= 1'b0;
    else push_q <= fire;
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

`ifndef SYNTHESIS
  always @(posedge clk_i or negedge rst_ni) begin
    if (rst_ni) assert (Depth >= Span);  // or no window would ever begin
  end
`endif

`ifdef FORMAL
  `include "mase_window_formal.svh"
`endif

endmodule

`default_nettype wire
