// Two banks of a block's beats each: one fills while the other leaves, one beat a cycle each.
//
// A row of RowBeats beats is cut into blocks of BlockBeats, the last of which may be shorter. With a block's last beat
// (fill_last_o) its bank is full; from the next cycle on it leaves, while credit_i is high. What else is kept of a block
// lies beside: fill_bank_o and leave_bank_o say of which. data_o holds the beat that left one cycle before.
// in_ready_o comes from registers.

`default_nettype none

module mase_block_banks #(
  parameter int Rows = 1,  // of a sample
  parameter int RowBeats = 4,
  parameter int BlockBeats = 2,
  parameter int Width = 8  // of what is kept of a beat
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,

  output      logic             fill_o,  // a beat is taken:
  output      logic             fill_first_o,  // the first of its block,
  output      logic             fill_last_o,  // the last one,
  output      logic             fill_bank_o,  // into this bank

  input  wire logic             credit_i,
  output      logic             leave_o,  // a beat leaves:
  output      logic             leave_bank_o,  // from this bank,
  output      logic             row_end_o,  // the last of its row,
  output      logic             sample_end_o,  // of its sample
  output      logic [Width-1:0] data_o
);

  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;
  localparam int BeatWidth = (BlockBeats > 1) ? $clog2(BlockBeats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam int BankWidth = $clog2(2 * BlockBeats);

  logic [1:0]           full_q;
  logic                 fill_bank_q, leave_bank_q, leave_last;
  logic [ColWidth-1:0]  fill_col_q, col_q;
  logic [BeatWidth-1:0] fill_beat_q, beat_q;
  logic [RowWidth-1:0]  row_q;
  logic [Width-1:0]     bank [2*BlockBeats];

  // ---- fill -----------------------------------------------------------------------------------------------------

  assign in_ready_o   = !full_q[fill_bank_q];
  assign fill_o       = in_valid_i && in_ready_o;
  assign fill_first_o = fill_beat_q == '0;
  assign fill_last_o  = fill_beat_q == BeatWidth'(BlockBeats - 1) || fill_col_q == ColWidth'(RowBeats - 1);
  assign fill_bank_o  = fill_bank_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fill_bank_q <= 1'b0;
      fill_col_q  <= '0;
      fill_beat_q <= '0;
    end else if (fill_o) begin
      fill_col_q  <= (fill_col_q == ColWidth'(RowBeats - 1)) ? '0 : fill_col_q + ColWidth'(1);
      fill_beat_q <= fill_last_o ? '0 : fill_beat_q + BeatWidth'(1);
      if (fill_last_o) fill_bank_q <= !fill_bank_q;
    end
  end
  always_ff @(posedge clk_i) begin
    if (fill_o) bank[BankWidth'(fill_beat_q) + (fill_bank_q ? BankWidth'(BlockBeats) : '0)] <= in_data_i;
  end

  // ---- leave ----------------------------------------------------------------------------------------------------

  assign row_end_o    = col_q == ColWidth'(RowBeats - 1);
  assign sample_end_o = row_end_o && row_q == RowWidth'(Rows - 1);
  assign leave_o      = full_q[leave_bank_q] && credit_i;
  assign leave_last   = beat_q == BeatWidth'(BlockBeats - 1) || row_end_o;
  assign leave_bank_o = leave_bank_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      leave_bank_q <= 1'b0;
      col_q        <= '0;
      beat_q       <= '0;
      row_q        <= '0;
      full_q       <= '0;
    end else begin
      if (leave_o) begin
        col_q  <= row_end_o ? '0 : col_q + ColWidth'(1);
        beat_q <= leave_last ? '0 : beat_q + BeatWidth'(1);
        if (row_end_o) row_q <= sample_end_o ? '0 : row_q + RowWidth'(1);
        if (leave_last) leave_bank_q <= !leave_bank_q;
        if (leave_last) full_q[leave_bank_q] <= 1'b0;
      end
      if (fill_o && fill_last_o) full_q[fill_bank_q] <= 1'b1;
    end
  end
  always_ff @(posedge clk_i) data_o <= bank[BankWidth'(beat_q) + (leave_bank_q ? BankWidth'(BlockBeats) : '0)];

endmodule

`default_nettype wire
