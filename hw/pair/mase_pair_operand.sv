// One lane of one operand of mase_pair, on the unit of the sum: t_o = code_i * Mult << shift_i, or with Down
//
//   t_o = (code_i * Mult << Guard) >> shift_i          >> rounds down
//
// Exact but for Down. Latency: 1, [Multiply], [Down] cycles. Free running, data alone: nothing is reset.

`default_nettype none

module mase_pair_operand #(
  parameter int Width = 8,
  parameter bit Signed = 1'b1,
  parameter int ShiftBits = 0,  // 0: no shift_i
  parameter int ShiftMax = 0,
  parameter bit Multiply = 1'b0,  // there is a cycle for a multiplier
  parameter int MultBits = 0,  // 0: Mult is 1
  parameter int Mult = 1,
  parameter bit Down = 1'b0,
  parameter int Guard = 0,
  parameter int Left = 0,  // not Down: a shift besides
  // Derived, do not override.
  parameter int ShiftPort = (ShiftBits == 0) ? 1 : ShiftBits,
  parameter int OutWidth = Width + (Signed ? 0 : 1) + MultBits + (Down ? Guard : Left + ShiftMax)
) (
  input  wire logic                 clk_i,
  input  wire logic [Width-1:0]     code_i,
  input  wire logic [ShiftPort-1:0] shift_i,
  output      logic [OutWidth-1:0]  t_o
);

  localparam int A = Width + (Signed ? 0 : 1);
  localparam int Shifted = A + (Down ? 0 : ShiftMax);
  localparam int Product = Shifted + MultBits;

  logic signed [A-1:0]       x;
  logic signed [Shifted-1:0] x_q;
  logic signed [Product-1:0] product;

  if (Signed) begin : gen_signed
    assign x = code_i;
  end else begin : gen_unsigned
    assign x = {1'b0, code_i};
  end

  if (Down || ShiftBits == 0) begin : gen_level
    always_ff @(posedge clk_i) x_q <= Shifted'(x);
  end else begin : gen_shift
    always_ff @(posedge clk_i) x_q <= Shifted'(x) << shift_i;
  end

  if (!Multiply) begin : gen_at_once
    assign product = x_q;
  end else if (MultBits == 0) begin : gen_wait
    logic signed [Product-1:0] product_q;
    always_ff @(posedge clk_i) product_q <= x_q;
    assign product = product_q;
  end else begin : gen_mult
    localparam logic signed [MultBits:0] M = (MultBits + 1)'(Mult);
    logic signed [Product-1:0] product_q;
    always_ff @(posedge clk_i) product_q <= Product'(x_q * M);
    assign product = product_q;
  end

  if (Down) begin : gen_down
    localparam int Wide = Product + Guard;
    logic [ShiftPort-1:0]   by;
    logic signed [Wide-1:0] wide, down_q;
    if (Multiply) begin : gen_later
      logic [ShiftPort-1:0] by_q, by_late_q;
      always_ff @(posedge clk_i) begin
        by_q      <= shift_i;
        by_late_q <= by_q;
      end
      assign by = by_late_q;
    end else begin : gen_soon
      logic [ShiftPort-1:0] by_q;
      always_ff @(posedge clk_i) by_q <= shift_i;
      assign by = by_q;
    end
    assign wide = Wide'(product) <<< Guard;
    always_ff @(posedge clk_i) down_q <= wide >>> by;
    assign t_o = down_q;
  end else begin : gen_up
    if (ShiftBits == 0) begin : gen_unused
      logic unused;
      assign unused = &{1'b0, shift_i};
    end
    assign t_o = OutWidth'(product) <<< Left;
  end

endmodule

`default_nettype wire
