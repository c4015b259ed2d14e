// Combinational rounding and saturation of one exact integer to one code.
//
//   out_o = clamp(round(signed(in_i) * 2**(ShiftLeft - ShiftRight)), low, high)
//
// RoundMode 0: nearest, ties to even; 1: nearest, ties up; 2: floor. Bounds are those of a signed or
// unsigned word of OutWidth bits; Narrow drops the most negative code, Relu raises the bound to 0.
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
  parameter bit Relu       = 1'b0
) (
  input  wire logic [InWidth-1:0]  in_i,
  output      logic [OutWidth-1:0] out_o
);

  // One bit for the carry of the half, and at least two more than the result, so that bounds compare.
  localparam int Wide = InWidth + ShiftLeft + 1;
  localparam int Kept = (Wide - ShiftRight > OutWidth + 2) ? Wide - ShiftRight : OutWidth + 2;
  localparam logic [Kept-1:0] One = Kept'(1);
  localparam logic [Kept-1:0] High = (One << (OutSigned ? OutWidth - 1 : OutWidth)) - One;
  localparam logic [Kept-1:0] Least = Narrow ? -High : -High - One;
  localparam logic [Kept-1:0] Low = (Relu || !OutSigned) ? '0 : Least;

  logic [Kept-1:0] rounded;

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

  logic [OutWidth-1:0] least, most;
  assign least = Low[OutWidth-1:0];
  assign most  = High[OutWidth-1:0];
  assign out_o = ($signed(rounded) < $signed(Low)) ? least :
                 ($signed(rounded) > $signed(High)) ? most : rounded[OutWidth-1:0];

endmodule

`default_nettype wire
