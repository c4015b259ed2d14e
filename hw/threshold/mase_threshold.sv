// A function of few values that never falls: y = Low + how many thresholds x has reached.
//
//   y = Low + sum over i of (x >= Ti)          i = 0 .. Count - 1, Count <= 15
//
// Exact: thresholds are the least codes with each result, found from the rounding of the software. No multiplier, no
// memory: every comparison is with a constant. One beat of Lanes elements a cycle; latency 2: sum, output FIFO. Lanes
// beyond Cols give 0. in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_threshold #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int Cols = 2,  // of a row
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int OutWidth = 2,
  parameter int Low = 0,
  parameter int Count = 3,
  parameter int T0 = -10,
  parameter int T1 = 0,
  parameter int T2 = 10,
  parameter int T3 = 0,
  parameter int T4 = 0,
  parameter int T5 = 0,
  parameter int T6 = 0,
  parameter int T7 = 0,
  parameter int T8 = 0,
  parameter int T9 = 0,
  parameter int T10 = 0,
  parameter int T11 = 0,
  parameter int T12 = 0,
  parameter int T13 = 0,
  parameter int T14 = 0,
  parameter int FifoDepth = 4,
  // Derived, do not override.
  parameter int InBits = Lanes * XWidth,
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

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam logic [15*32-1:0] All = {
    T14, T13, T12, T11, T10, T9, T8, T7, T6, T5, T4, T3, T2, T1, T0
  };

  logic                 fire, credit, last, row_end, valid_q, last_q;
  logic [BeatWidth-1:0] beat_q;
  logic [OutBits-1:0]   result, result_q;

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
  always_ff @(posedge clk_i) begin
    last_q   <= last;
    result_q <= result;
  end

  if (Tail == Lanes || RowBeats == 1) begin : gen_one
    assign row_end = Tail != Lanes;
  end else begin : gen_rows
    localparam int ColWidth = $clog2(RowBeats);
    logic [ColWidth-1:0] col_q;
    assign row_end = col_q == ColWidth'(RowBeats - 1);
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) col_q <= '0;
      else if (fire) col_q <= row_end ? '0 : col_q + ColWidth'(1);
    end
  end

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic signed [A-1:0]   x;
    logic [Count-1:0]      reached;
    logic [OutWidth-1:0]   sum;
    if (XSigned) begin : gen_signed
      assign x = in_data_i[l*XWidth +: XWidth];
    end else begin : gen_unsigned
      assign x = {1'b0, in_data_i[l*XWidth +: XWidth]};
    end
    for (genvar i = 0; i < Count; i++) begin : gen_threshold
      localparam logic signed [31:0] T = All[i*32 +: 32];
      assign reached[i] = x >= A'(T);
    end
    always_comb begin
      sum = OutWidth'(Low);
      for (int i = 0; i < Count; i++) sum = sum + OutWidth'(reached[i]);
    end
    assign result[l*OutWidth +: OutWidth] = (l >= Tail && row_end) ? '0 : sum;
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q),
    .push_data_i({last_q, result_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
