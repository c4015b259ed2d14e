// The greatest K elements of each row, the greatest first, or their indices; among equal ones the lowest index first.
//
//   y[j] = x[i_j] or i_j          x[i_0] << e >= x[i_1] << e >= ..., i_j < i_j+1 where both are equal
//
// Exact. A sorted list of K entries: an element takes the place of the first entry that is less, and those behind it
// move on by one. One element a cycle; after the last of a row its K results leave, one a cycle, and nothing enters.
// Latency: FIFO, 1. in_ready_o is the state, a register.

`default_nettype none

module mase_topk #(
  parameter int Rows = 1,
  parameter int Cols = 4,
  parameter int K = 2,  // at most Cols
  parameter bit Indices = 1'b1,  // else elements, which have no exponents then
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int OutWidth = 2,  // XWidth, or the bits that count to Cols - 1
  parameter int FifoDepth = 3,
  // Derived, do not override.
  parameter int InBits = XWidth + XExpBits
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
  localparam int Value = A + ((XExpBits == 0) ? 0 : (1 << XExpBits) - 1);
  localparam int ColWidth = (Cols > 1) ? $clog2(Cols) : 1;  // K <= Cols
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam int Held = Indices ? ColWidth : XWidth;  // bits of an entry that leave

  logic                    take, give, giving_q, credit, row_last, last;
  logic [ColWidth-1:0]     col_q;
  logic [RowWidth-1:0]     row_q;
  logic signed [A-1:0]     x;
  logic signed [Value-1:0] value;
  logic [K-1:0]            used_q, above;
  logic [K*Value-1:0]      value_q;
  logic [K*Held-1:0]       held_q;
  logic [Held-1:0]         held;

  assign in_ready_o = !giving_q;
  assign take       = in_valid_i && !giving_q;
  assign give       = giving_q && credit;
  assign row_last   = col_q == (giving_q ? ColWidth'(K - 1) : ColWidth'(Cols - 1));
  assign last       = row_last && row_q == RowWidth'(Rows - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      giving_q <= 1'b0;
      col_q    <= '0;
      row_q    <= '0;
      used_q   <= '0;
    end else begin
      if (take || give) col_q <= row_last ? '0 : col_q + ColWidth'(1);
      if ((take || give) && row_last) giving_q <= !giving_q;
      if (give && row_last) row_q <= last ? '0 : row_q + RowWidth'(1);
      if (take) used_q <= (used_q << 1) | K'(1);
      else if (give && row_last) used_q <= '0;
    end
  end

  if (XSigned) begin : gen_signed
    assign x = in_data_i[XWidth-1:0];
  end else begin : gen_unsigned
    assign x = {1'b0, in_data_i[XWidth-1:0]};
  end
  if (XExpBits == 0) begin : gen_plain
    assign value = x;
  end else begin : gen_exp
    assign value = Value'(x) << in_data_i[XWidth +: XExpBits];
  end
  if (Indices) begin : gen_index
    assign held = col_q;
  end else begin : gen_value
    assign held = in_data_i[XWidth-1:0];
  end

  for (genvar j = 0; j < K; j++) begin : gen_entry
    logic signed [Value-1:0] own;
    assign own      = value_q[j*Value +: Value];
    assign above[j] = !used_q[j] || value > own;
    always_ff @(posedge clk_i) begin
      if (take && above[j]) begin
        value_q[j*Value +: Value] <= (j > 0 && above[(j>0)?j-1:0]) ? value_q[((j>0)?j-1:0)*Value +: Value] : value;
        held_q[j*Held +: Held]    <= (j > 0 && above[(j>0)?j-1:0]) ? held_q[((j>0)?j-1:0)*Held +: Held] : held;
      end else if (give) begin
        held_q[j*Held +: Held] <= held_q[((j<K-1)?j+1:j)*Held +: Held];
      end
    end
  end

  mase_credit_fifo #(.Width(OutWidth + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (give),
    .credit_o   (credit),
    .push_i     (give),
    .push_data_i({last, held_q[OutWidth-1:0]}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
