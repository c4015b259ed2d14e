// One product of an integer and a weight, registered: y_o = x_i * w, exact modulo 2**OutWidth, one cycle late.
//
//   Power = 0:  w_i is a signed integer, and a multiplier multiplies; or, with ExpBits, from its top bit down a sign, an
//               exponent and a mantissa: w = +-{exponent != 0, mantissa} << (max(exponent, 1) - 1)
//   Power = 1:  w is +-2**shift or 0, and nothing multiplies: negate, shift, select
//               w_i from its top bit down: [1 where w is not 0, if HasZero], the sign, the shift
//
// Binary weights take one bit (the sign), ternary ones two, logarithms the bits of their format. Free running: no
// handshake, no reset.

`default_nettype none

module mase_product #(
  parameter int XWidth = 8,
  parameter int WWidth = 8,
  parameter bit Power = 1'b0,
  parameter bit HasZero = 1'b0,
  parameter int ExpBits = 0,
  parameter int OutWidth = XWidth + WWidth
) (
  input  wire logic                clk_i,
  input  wire logic [XWidth-1:0]   x_i,
  input  wire logic [WWidth-1:0]   w_i,
  output      logic [OutWidth-1:0] y_o
);

  logic signed [OutWidth-1:0] y_q;
  assign y_o = y_q;

  if (!Power) begin : gen_multiply
    localparam int Most = (ExpBits == 0) ? 0 : (1 << ExpBits) - 2;  // greatest shift
    localparam int Whole = WWidth - ExpBits + Most + ((ExpBits == 0) ? 0 : 1);
    logic signed [XWidth-1:0] x;
    logic signed [Whole-1:0]  w;
    assign x = x_i;
    if (ExpBits == 0) begin : gen_integer
      assign w = w_i;
    end else begin : gen_pattern
      localparam int ManBits = WWidth - 1 - ExpBits;
      logic [ExpBits-1:0] field, shift;
      logic [ManBits:0]   digits;
      logic [Whole-1:0]   size;
      assign field  = w_i[WWidth-2:ManBits];
      assign shift  = (field == '0) ? '0 : field - ExpBits'(1);
      assign digits = {field != '0, w_i[ManBits-1:0]};
      assign size   = Whole'(digits) << shift;
      assign w      = w_i[WWidth-1] ? -size : size;
    end
    always_ff @(posedge clk_i) y_q <= OutWidth'(x * w);
  end else begin : gen_shift
    localparam int Sign = WWidth - 1 - (HasZero ? 1 : 0);  // its place; the shift lies below it
    logic signed [XWidth:0]     size;
    logic signed [OutWidth-1:0] raised;
    // A negative is the complement plus one.
    assign size = ($signed({x_i[XWidth-1], x_i}) ^ {(XWidth + 1){w_i[Sign]}}) + $signed({{XWidth{1'b0}}, w_i[Sign]});
    if (Sign == 0) begin : gen_signs
      assign raised = OutWidth'(size);
    end else begin : gen_shifts
      assign raised = OutWidth'(size) << w_i[Sign-1:0];
    end
    if (HasZero) begin : gen_zero
      always_ff @(posedge clk_i) y_q <= w_i[WWidth-1] ? raised : '0;
    end else begin : gen_never_zero
      always_ff @(posedge clk_i) y_q <= raised;
    end
  end

endmodule

`default_nettype wire
