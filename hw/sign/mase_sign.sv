// Exact integers become signs, lane by lane: of ternary numbers, or of binary ones.
//
//   HasZero:  y = 1 where t > Edge, -1 where t < -Edge, else 0
//   else:     y = 1 where t >= 0, else -1
//
// One beat of Lanes elements a cycle; latency 2: one register, then the output FIFO. Lanes beyond Cols give 0.
// in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_sign #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int Cols = 2,  // of a row
  parameter int InWidth = 16,
  parameter bit HasZero = 1'b1,
  parameter int EdgeHigh = 0,  // Edge is (EdgeHigh * 2**31 + EdgeLow) << EdgeShift
  parameter int EdgeLow = 3,
  parameter int EdgeShift = 0,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int InBits = Lanes * InWidth,
  parameter int OutBits = Lanes * 2
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

  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  localparam int RowWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam logic [61:0] Digits = {31'(EdgeHigh), 31'(EdgeLow)};
  localparam logic signed [InWidth:0] Edge = (InWidth + 1)'(Digits) << EdgeShift;

  logic                 fire, credit, last, row_last, valid_q, last_q;
  logic [RowWidth-1:0]  col_q;
  logic [BeatWidth-1:0] beat_q;
  logic [OutBits-1:0]   result_q;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);
  assign row_last   = col_q == RowWidth'(RowBeats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      col_q   <= '0;
      beat_q  <= '0;
      valid_q <= 1'b0;
    end else begin
      if (fire) col_q <= row_last ? '0 : col_q + RowWidth'(1);
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      valid_q <= fire;
    end
  end
  always_ff @(posedge clk_i) last_q <= last;

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic       above, below;
    logic [1:0] y;
    if (HasZero) begin : gen_ternary
      logic signed [InWidth:0] t;
      assign t     = (InWidth + 1)'($signed(in_data_i[l*InWidth +: InWidth]));
      assign above = t > Edge;
      assign below = t < -Edge;
    end else begin : gen_binary
      assign above = !in_data_i[(l+1)*InWidth-1];
      assign below = !above;
    end
    assign y = {below, above || below};
    always_ff @(posedge clk_i) result_q[2*l +: 2] <= (l >= Tail && row_last) ? '0 : y;
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
