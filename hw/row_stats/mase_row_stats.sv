// Statistics of each row: what the root of its spread is taken of, and its sum; or its greatest element.
//
//   Centred 0: A = sum x^2 + Eps                      one lane a result: A
//   Centred 1: A = Cols * sum x^2 - (sum x)^2 + Eps   two lanes: A, and sum x above it
//   Maximum:   A = max x                              one lane; the rest as where it is not Centred
//
// x is a code with its block's exponent, x << e. Exact: integers alone, so any number of lanes gives the same. Eps is
// EpsHigh * 2**31 + EpsLow. One beat of Lanes elements a cycle, one result a row; from the last beat of a row: shift,
// square, ceil(log2(Lanes)) levels of adders or comparisons, running sum, products, difference, FIFO, 1 cycle each. Lanes beyond Cols
// carry 0. in_ready_o is the credit of the output FIFO at the last beat of a row, and 1 before it: registers.

`default_nettype none

module mase_row_stats #(
  parameter int Rows = 1,
  parameter int Cols = 4,
  parameter int Lanes = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter bit Centred = 1'b1,
  parameter bit Maximum = 1'b0,
  parameter int EpsHigh = 0,
  parameter int EpsLow = 1,
  parameter int OutWidth = 22,  // of a lane of the result; holds both, two's complement
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Lanes > XBlock) ? Lanes / XBlock : 1,
  parameter int InBits = Lanes * XWidth + XExps * XExpBits,
  parameter int OutBits = (Centred != 0) ? 2 * OutWidth : OutWidth
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
  localparam int Shifted = A + ((XExpBits == 0) ? 0 : (1 << XExpBits) - 1);
  localparam int Square = (2 * Shifted < OutWidth) ? 2 * Shifted : OutWidth;  // of what a row can hold, no more
  localparam int Levels = $clog2(Lanes);
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Stages = Levels + 2;
  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam logic [61:0] Eps = {31'(EpsHigh), 31'(EpsLow)};

  // ---- firing: beats of a row, rows of a sample; a result reserves its place ---------------------------------------

  logic                fire, credit, row_end, last;
  logic [ColWidth-1:0] col_q;
  logic [RowWidth-1:0] row_q;
  logic [Stages-1:0]   valid_q, begin_q, end_q, last_q;

  assign row_end    = col_q == ColWidth'(RowBeats - 1);
  assign last       = row_end && row_q == RowWidth'(Rows - 1);
  assign in_ready_o = credit || !row_end;
  assign fire       = in_valid_i && in_ready_o;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      col_q   <= '0;
      row_q   <= '0;
      valid_q <= '0;
    end else begin
      if (fire) col_q <= row_end ? '0 : col_q + ColWidth'(1);
      if (fire && row_end) row_q <= last ? '0 : row_q + RowWidth'(1);
      valid_q <= Stages'({valid_q, fire});
    end
  end
  always_ff @(posedge clk_i) begin
    begin_q <= Stages'({begin_q, col_q == '0});
    end_q   <= Stages'({end_q, row_end});
    last_q  <= Stages'({last_q, last});
  end

  // ---- elements, their squares, and the sums of a beat -------------------------------------------------------------

  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  logic [Lanes*Square-1:0]  squares;
  logic [Lanes*Shifted-1:0] values;
  for (genvar i = 0; i < Lanes; i++) begin : gen_lane
    logic signed [A-1:0]       x;
    logic signed [Shifted-1:0] shifted, shifted_q, value_q;
    logic signed [Square-1:0]  square, square_q;
    if (XSigned) begin : gen_signed
      assign x = in_data_i[i*XWidth +: XWidth];
    end else begin : gen_unsigned
      assign x = {1'b0, in_data_i[i*XWidth +: XWidth]};
    end
    if (XExpBits == 0) begin : gen_plain
      assign shifted = x;
    end else begin : gen_exp
      localparam int Index = (XExps > 1) ? i / XBlock : 0;
      assign shifted = Shifted'(x) << in_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits];
    end
    assign square = Maximum ? '0 : Square'(shifted_q) * Square'(shifted_q);
    always_ff @(posedge clk_i) begin
      shifted_q <= (Maximum && i >= Tail && row_end) ? Shifted'(1) << (Shifted - 1) : shifted;
      value_q   <= shifted_q;
      square_q  <= square;
    end
    assign values[i*Shifted +: Shifted] = value_q;
    assign squares[i*Square +: Square]  = square_q;
  end

  logic [OutWidth-1:0] result_value;  // A
  logic [OutWidth-1:0] beat_sum, beat_squares;
  mase_adder_tree #(.Count(Lanes), .Width(Shifted), .OutWidth(OutWidth)) u_sum (
    .clk_i (clk_i),
    .data_i(values),
    .sum_o (beat_sum)
  );
  mase_adder_tree #(.Count(Lanes), .Width(Square), .OutWidth(OutWidth)) u_squares (
    .clk_i (clk_i),
    .data_i(squares),
    .sum_o (beat_squares)
  );

  // ---- sums of a row, products, result -----------------------------------------------------------------------------

  logic [OutWidth-1:0] sum_q, squares_q, scaled_q, product_q, beside_q, argument_q, above_q;
  logic [2:0]          done_q, done_last_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) done_q <= '0;
    else done_q <= {done_q[1:0], valid_q[Stages-1] && end_q[Stages-1]};
  end
  always_ff @(posedge clk_i) begin
    done_last_q <= {done_last_q[1:0], last_q[Stages-1]};
    if (valid_q[Stages-1]) begin
      sum_q     <= beat_sum + (begin_q[Stages-1] ? '0 : sum_q);
      squares_q <= beat_squares + (begin_q[Stages-1] ? '0 : squares_q);
    end
    scaled_q   <= Centred ? squares_q * OutWidth'(Cols) : squares_q;
    product_q  <= Centred ? sum_q * sum_q : '0;
    beside_q   <= sum_q;
    argument_q <= scaled_q - product_q + OutWidth'(Eps);
    above_q    <= beside_q;
  end

  if (Maximum) begin : gen_most
    logic signed [Shifted-1:0] beat_most, most_q, most_q2, most_q3;
    logic                      unused;
    assign unused = &{1'b0, argument_q};
    mase_max_tree #(.Count(Lanes), .Width(Shifted)) u_most (
      .clk_i (clk_i),
      .data_i(values),
      .max_o (beat_most)
    );
    always_ff @(posedge clk_i) begin
      if (valid_q[Stages-1]) most_q <= (begin_q[Stages-1] || beat_most > most_q) ? beat_most : most_q;
      most_q2 <= most_q;
      most_q3 <= most_q2;
    end
    assign result_value = OutWidth'(most_q3);
  end else begin : gen_spread
    assign result_value = argument_q;
  end

  logic [OutBits-1:0] result;
  if (Centred) begin : gen_two
    assign result = {above_q, result_value};
  end else begin : gen_one
    logic unused;
    assign unused = &{1'b0, above_q};
    assign result = result_value;
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && row_end),
    .credit_o   (credit),
    .push_i     (done_q[2]),
    .push_data_i({done_last_q[2], result}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
