// Index of the greatest element of each row; among equal ones the lowest index.
//
//   y = min { i : x[i] << e[i] is the greatest of the row }          x with its block's exponent e
//
// Exact. One beat of Lanes elements a cycle, one result a row; from the last beat of a row: shift, ceil(log2(Lanes))
// levels of comparisons, the running maximum, FIFO, 1 cycle each. Lanes beyond Cols lose against all elements.
// in_ready_o is the credit of the output FIFO at the last beat of a row, and 1 before it: registers.

`default_nettype none

module mase_argmax #(
  parameter int Rows = 1,
  parameter int Cols = 4,
  parameter int Lanes = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter int OutWidth = 2,  // counts to Cols - 1
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Lanes > XBlock) ? Lanes / XBlock : 1,
  parameter int InBits = Lanes * XWidth + XExps * XExpBits
) (
  input  wire logic                clk_i,
  input  wire logic                rst_ni,

  input  wire logic                in_valid_i,
  output      logic                in_ready_o,
  input  wire logic [InBits-1:0]   in_data_i,

  output      logic                out_valid_o,
  input  wire logic                out_ready_i,
  output      logic [OutWidth-1:0] out_data_o,
  output      logic                out_last_o
);

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int Value = A + ((XExpBits == 0) ? 0 : (1 << XExpBits) - 1) + 1;  // one value below all elements
  localparam int Levels = $clog2(Lanes);
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  localparam int Stages = Levels + 1;
  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam logic signed [Value-1:0] Least = Value'(1) << (Value - 1);

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

  // ---- the greatest of a beat: a tree in which the left one wins a tie ---------------------------------------------

  for (genvar k = 0; k <= Levels; k++) begin : gen_level
    localparam int Nodes = (Lanes + (1 << k) - 1) >> k;
    localparam int Below = (2 * Lanes + (1 << k) - 1) >> k;
    for (genvar i = 0; i < Nodes; i++) begin : gen_node
      logic signed [Value-1:0] value_q;
      logic [OutWidth-1:0]     index_q;
      if (k == 0) begin : gen_leaf
        logic signed [A-1:0]     x;
        logic signed [Value-1:0] shifted;
        if (XSigned) begin : gen_signed
          assign x = in_data_i[i*XWidth +: XWidth];
        end else begin : gen_unsigned
          assign x = {1'b0, in_data_i[i*XWidth +: XWidth]};
        end
        if (XExpBits == 0) begin : gen_plain
          assign shifted = Value'(x);
        end else begin : gen_exp
          localparam int Index = (XExps > 1) ? i / XBlock : 0;
          assign shifted = Value'(x) << in_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits];
        end
        always_ff @(posedge clk_i) begin
          value_q <= (i >= Tail && row_end) ? Least : shifted;
          index_q <= OutWidth'(OutWidth'(col_q) * OutWidth'(Lanes)) + OutWidth'(i);
        end
      end else if (2 * i + 1 < Below) begin : gen_compare
        logic right;
        assign right = gen_level[k-1].gen_node[2*i+1].value_q > gen_level[k-1].gen_node[2*i].value_q;
        always_ff @(posedge clk_i) begin
          value_q <= right ? gen_level[k-1].gen_node[2*i+1].value_q : gen_level[k-1].gen_node[2*i].value_q;
          index_q <= right ? gen_level[k-1].gen_node[2*i+1].index_q : gen_level[k-1].gen_node[2*i].index_q;
        end
      end else begin : gen_pass
        always_ff @(posedge clk_i) begin
          value_q <= gen_level[k-1].gen_node[2*i].value_q;
          index_q <= gen_level[k-1].gen_node[2*i].index_q;
        end
      end
    end
  end

  // ---- the greatest of a row so far --------------------------------------------------------------------------------

  logic signed [Value-1:0] beat_value, best_value_q;
  logic [OutWidth-1:0]     beat_index, best_index_q;
  logic                    better, done_q, done_last_q;

  assign beat_value = gen_level[Levels].gen_node[0].value_q;
  assign beat_index = gen_level[Levels].gen_node[0].index_q;
  assign better     = begin_q[Stages-1] || beat_value > best_value_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) done_q <= 1'b0;
    else done_q <= valid_q[Stages-1] && end_q[Stages-1];
  end
  always_ff @(posedge clk_i) begin
    done_last_q <= last_q[Stages-1];
    if (valid_q[Stages-1] && better) begin
      best_value_q <= beat_value;
      best_index_q <= beat_index;
    end
  end

  mase_credit_fifo #(.Width(OutWidth + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && row_end),
    .credit_o   (credit),
    .push_i     (done_q),
    .push_data_i({done_last_q, best_index_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
