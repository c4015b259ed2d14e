// Rows that are kept and read again: after each row that comes, all rows so far leave, the oldest first, at most Keep.
//
//   row i comes; rows max(0, i - Keep + 1) .. i leave          i = 0 .. Rows - 1; a sample begins with none
//
// A row is Beats words; a ring of Keep rows holds them, and the newest row takes the place of the oldest. This is the
// order in which a token reads keys and values: that of writing, so nothing is transposed, and no row is masked.
// One word in a cycle, or one word out; latency from a read to out_valid_o: 2 (memory, FIFO). out_last_o marks the last
// word of a sample. in_ready_o and out_valid_o depend on registers only.

`default_nettype none

module mase_cache #(
  parameter int Width = 8,
  parameter int Rows = 3,
  parameter int Keep = 2,
  parameter int Beats = 2,
  parameter int FifoDepth = 3
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_last_o
);

  localparam int Words = Keep * Beats;
  localparam int AddressWidth = (Words > 1) ? $clog2(Words) : 1;
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;

  logic [Width-1:0]        memory_q [Words];
  logic [Width-1:0]        word_q;
  logic [AddressWidth-1:0] write_q, write_next, read_q, newest_q;
  logic [BeatWidth-1:0]    beat_q;  // of the row that comes
  logic [RowWidth-1:0]     row_q;
  logic                    give_q;  // rows leave
  logic                    full_q;  // every place of the ring has a row of this sample
  logic                    take, fire, credit, taken, given, last, valid_q, last_q;

  assign in_ready_o = !give_q;
  assign take       = in_valid_i && in_ready_o;
  assign fire       = give_q && credit;
  assign taken      = take && beat_q == BeatWidth'(Beats - 1);
  assign given      = fire && read_q == newest_q;
  assign last       = row_q == RowWidth'(Rows - 1);
  assign write_next = (write_q == AddressWidth'(Words - 1)) ? '0 : write_q + AddressWidth'(1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_q <= '0;
      read_q  <= '0;
      beat_q  <= '0;
      row_q   <= '0;
      give_q  <= 1'b0;
      full_q  <= 1'b0;
      valid_q <= 1'b0;
    end else begin
      valid_q <= fire;
      if (take) begin
        write_q <= write_next;
        beat_q  <= taken ? '0 : beat_q + BeatWidth'(1);
      end
      if (taken) begin  // the oldest row begins where the next one is written, as soon as all places are taken
        give_q <= 1'b1;
        full_q <= full_q || write_next == '0;
        read_q <= full_q ? write_next : '0;
      end
      if (fire) read_q <= (read_q == AddressWidth'(Words - 1)) ? '0 : read_q + AddressWidth'(1);
      if (given) begin
        give_q <= 1'b0;
        row_q  <= last ? '0 : row_q + RowWidth'(1);
        if (last) begin
          write_q <= '0;
          full_q  <= 1'b0;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (take) memory_q[write_q] <= in_data_i;
    if (take) newest_q <= write_q;
    if (fire) word_q <= memory_q[read_q];
    last_q <= given && last;
  end

  mase_credit_fifo #(.Width(Width + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q),
    .push_data_i({last_q, word_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_cache_formal.svh"
`endif

endmodule

`default_nettype wire
