// Combinational rounding and saturation of one exact integer to one code.
//
//   out_o = clamp(Zero + round(signed(in_i) * 2**(ShiftLeft - ShiftRight)), low, high)
//
// RoundMode 0: nearest, ties to even; 1: nearest, ties up; 2: floor. Bounds are those of a signed or
// unsigned word of OutWidth bits; Narrow drops the most negative code, Relu raises the bound to Zero,
// a code of the word.
// Nearest-even adds half, drops the low bits, and clears bit 0 where the dropped bits were all 0.

`default_nettype none

module mase_round #(
  parameter int InWidth = 16,
  parameter int OutWidth = 8,
  parameter int ShiftRight = 0,
  parameter int ShiftLeft  = 0,
  parameter int RoundMode  = 0,
  parameter bit OutSigned  = 1'b1,
  parameter bit Narrow     = 1'b0,
  parameter bit Relu       = 1'b0,
  parameter int Zero       = 0
) (
  input  wire logic [InWidth-1:0]  in_i,
  output      logic [OutWidth-1:0] out_o
);

  // One bit for the carry of the half, and at least two more than the result, so that bounds compare.
  localparam int Wide = InWidth + ShiftLeft + 1;
  localparam int Kept = (Wide - ShiftRight > OutWidth + 2) ? Wide - ShiftRight : OutWidth + 2;
  localparam int Moved = Kept + ((Zero != 0) ? 1 : 0);
  localparam logic [Moved-1:0] One = Moved'(1);
  localparam logic [Moved-1:0] High = (One << (OutSigned ? OutWidth - 1 : OutWidth)) - One;
  localparam logic [Moved-1:0] Least = Narrow ? -High : -High - One;
  localparam logic [Moved-1:0] Low = Relu ? Moved'(Zero) : OutSigned ? Least : '0;

  logic [Kept-1:0]  rounded;
  logic [Moved-1:0] moved;

  if (ShiftRight == 0) begin : gen_left
    assign rounded = Kept'($signed(in_i)) << ShiftLeft;
  end else begin : gen_right
    localparam int Full = Kept + ShiftRight;
    localparam logic [Full-1:0] Half = (RoundMode == 2) ? '0 : Full'(1) << (ShiftRight - 1);
    logic [Full-1:0] sum;
    logic            tie;
    assign sum = Full'($signed(in_i)) + Half;
    assign tie = (RoundMode == 0) && sum[ShiftRight-1:0] == '0;
    assign rounded = {sum[Full-1:ShiftRight+1], sum[ShiftRight] && !tie};
  end

  if (Zero == 0) begin : gen_level
    assign moved = rounded;
  end else begin : gen_zero
    assign moved = Moved'($signed(rounded)) + Moved'(Zero);
  end

  logic [OutWidth-1:0] least, most;
  assign least = Low[OutWidth-1:0];
  assign most  = High[OutWidth-1:0];
  assign out_o = ($signed(moved) < $signed(Low)) ? least :
                 ($signed(moved) > $signed(High)) ? most : moved[OutWidth-1:0];

endmodule

`default_nettype wire
