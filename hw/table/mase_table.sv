// Look every element up in a table: y = T[x], x as it travels, T any words of OutWidth bits.
//
// The word of an element is at its code, a number of XWidth bits; where blocks share an exponent of XExpBits bits, it
// stands above the code. Exact by definition: all rounding was done when T was made.
// One beat of Lanes elements a cycle; latency 2: a memory a lane, then the output FIFO. Lanes beyond Cols give 0.
// in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_table #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int Cols = 2,  // of a row
  parameter int XWidth = 4,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int OutWidth = 8,
  parameter int FifoDepth = 4,
  parameter TableFile = "",
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Lanes > XBlock) ? Lanes / XBlock : 1,
  parameter int InBits = Lanes * XWidth + XExps * XExpBits,
  parameter int OutBits = Lanes * OutWidth
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

  localparam int AddrWidth = XWidth + XExpBits;
  localparam int Words = 1 << AddrWidth;
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;

  logic                 fire, credit, last, row_end_q, valid_q, last_q;
  logic [BeatWidth-1:0] beat_q;
  logic [OutBits-1:0]   result;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      valid_q <= 1'b0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      valid_q <= fire;
    end
  end
  always_ff @(posedge clk_i) last_q <= last;

  if (Tail == Lanes) begin : gen_whole
    assign row_end_q = 1'b0;
  end else if (RowBeats == 1) begin : gen_one
    assign row_end_q = 1'b1;
  end else begin : gen_rows
    localparam int ColWidth = $clog2(RowBeats);
    logic [ColWidth-1:0] col_q;
    logic                row_end;
    assign row_end = col_q == ColWidth'(RowBeats - 1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) col_q <= '0;
      else if (fire) col_q <= row_end ? '0 : col_q + ColWidth'(1);
    end
    always_ff @(posedge clk_i) row_end_q <= row_end;
  end

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic [AddrWidth-1:0] addr;
    logic [OutWidth-1:0]  word;
    if (XExpBits == 0) begin : gen_plain
      assign addr = in_data_i[l*XWidth +: XWidth];
    end else begin : gen_exp
      localparam int Index = (XExps > 1) ? l / XBlock : 0;
      assign addr = {in_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits], in_data_i[l*XWidth +: XWidth]};
    end
    mase_rom #(.Width(OutWidth), .Depth(Words), .File(TableFile)) u_table (
      .clk_i (clk_i),
      .addr_i(addr),
      .data_o(word)
    );
    assign result[l*OutWidth +: OutWidth] = (l >= Tail && row_end_q) ? '0 : word;
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q),
    .push_data_i({last_q, result}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
