// An exact integer becomes the nearest number of a sign, an exponent and a mantissa; ties to even, saturating at Top.
//
//   out_o = sign, number of |in_i| / 2**down_i         in units of the least number above 0
//
// A zero has no sign. down_i may be negative, which multiplies. Latency 3; free running: no handshake, no reset.

`default_nettype none

module mase_float_round #(
  parameter int InWidth   = 16,
  parameter int DownWidth = 6,  // bits of down_i, signed
  parameter int ExpBits   = 4,
  parameter int ManBits   = 3,
  parameter int Top       = (1 << (ExpBits + ManBits)) - 1,  // greatest number, without its sign
  // Derived, do not override.
  parameter int OutWidth  = 1 + ExpBits + ManBits
) (
  input  wire logic                 clk_i,
  input  wire logic [InWidth-1:0]   in_i,
  input  wire logic [DownWidth-1:0] down_i,
  output      logic [OutWidth-1:0]  out_o
);

  // Bits dropped lie between -ManBits and the greatest down_i; above Most nothing is left, not even the half.
  localparam int Most = InWidth + 1;
  localparam int DropBits = $clog2(Most + ManBits + 2) + 1;
  localparam int Widest = (DropBits > DownWidth) ? DropBits : DownWidth;
  localparam int Drop = (Widest > ExpBits + 1) ? Widest + 1 : ExpBits + 2;  // signed
  localparam int Wide = InWidth + ManBits + 1;
  localparam int ShiftWidth = $clog2(Most + ManBits + 1);
  localparam int Rise = ExpBits + 1;  // a rise of 2**ExpBits is above Top
  localparam int Digits = ManBits + 2;  // a carry included
  localparam int Sum = Rise + Digits;

  // ---- 1: magnitude, and how many of its bits go ---------------------------------------------------------------------

  logic [InWidth-1:0]      size, size_q;
  logic signed [Drop-1:0]  point, down, drop, rise, drop_q;
  logic [Rise-1:0]         rise_q, rise_q2;
  logic                    sign_q, sign_q2, negative;
  assign size = in_i[InWidth-1] ? -in_i : in_i;
  assign down = Drop'($signed(down_i));
  always_comb begin
    point = -Drop'(ManBits);
    for (int i = 0; i < InWidth; i++) begin
      if (size[i]) point = Drop'(i) - Drop'(ManBits);
    end
  end
  assign drop = (point > down) ? point : down;
  assign rise = drop - down;
  always_ff @(posedge clk_i) begin
    size_q <= size;
    sign_q <= in_i[InWidth-1];
    drop_q <= (drop > $signed(Drop'(Most))) ? Drop'(Most) : drop;
    rise_q <= (size == '0) ? '0 : (rise > $signed(Drop'(1 << ExpBits))) ? Rise'(1 << ExpBits) : Rise'(rise);
  end

  // ---- 2: what is kept, with the half below, and whether anything else goes ----------------------------------------------

  logic [ShiftWidth-1:0] shift;
  logic [Wide-1:0]       wide, lost;
  logic [ManBits+1:0]    kept_q;
  logic                  sticky_q;
  assign shift = ShiftWidth'(drop_q + Drop'(ManBits));  // not negative
  assign wide  = Wide'(size_q) << (ManBits + 1);
  assign lost  = wide & ~({Wide{1'b1}} << shift);
  always_ff @(posedge clk_i) begin
    kept_q   <= (ManBits + 2)'(wide >> shift);
    sticky_q <= lost != '0;
    rise_q2  <= rise_q;
    sign_q2  <= sign_q;
  end

  // ---- 3: round; a carry into the exponent is right as it is --------------------------------------------------------------

  logic [Digits-1:0]          digits;
  logic [Sum-1:0]             sum;
  logic [ExpBits+ManBits-1:0] number;
  assign digits = Digits'(kept_q[ManBits+1:1]) + Digits'(kept_q[0] && (sticky_q || kept_q[1]));
  assign sum    = Sum'(digits) + (Sum'(rise_q2) << ManBits);
  assign number = (sum > Sum'(Top)) ? (ExpBits + ManBits)'(Top) : sum[ExpBits+ManBits-1:0];
  assign negative = sign_q2 && number != '0;
  always_ff @(posedge clk_i) out_o <= {negative, number};

endmodule

`default_nettype wire
