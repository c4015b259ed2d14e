// From codes to the integers that they stand for, lane by lane.
//
//   ExpBits = 0:  y = x - Zero                                 integers with a zero point
//   else:         y = +-digits << shift                        x is a sign, an exponent and a mantissa, sign on top
//     Subnormal:  digits = {exponent != 0, mantissa}, shift = max(exponent, 1) - 1;  else {1, mantissa} and exponent
//     Own:        y = +-digits, and the lane gets an exponent of its own: shift, plus that of its block
//     FieldExp:   a block has such a number for a scale, without a sign: y times its digits, its shift is the exponent
//
// Codes above Top, which are no numbers, count as Top. Without Own the exponents of blocks pass. Lanes beyond the end of
// a row give 0. One beat of Lanes elements a cycle; latency 2. in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_decode #(
  parameter int Beats = 1,     // a sample
  parameter int RowBeats = 1,  // a row
  parameter int Tail = 2,      // lanes of the last beat of a row
  parameter int Lanes = 2,
  parameter int Width = 8,
  parameter bit Signed = 1'b0,
  parameter int Zero = 0,
  parameter int ExpBits = 0,
  parameter int ManBits = 3,
  parameter int Top = 0,
  parameter bit Subnormal = 1'b1,
  parameter int Own = 0,
  parameter int FieldExp = 0,  // 0: what a block carries is an exponent
  parameter int FieldMan = 3,
  parameter int FieldTop = 0,
  parameter int InExpBits = 0,  // 0: x carries no exponents of blocks
  parameter int InBlock = 1,
  parameter int OutWidth = 9,
  parameter int OutExpBits = 0,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int InExps = (InExpBits == 0) ? 0 : (Lanes > InBlock) ? Lanes / InBlock : 1,
  parameter int OutExps = (Own != 0) ? Lanes : InExps,
  parameter int InBits = Lanes * Width + InExps * InExpBits,
  parameter int OutBits = Lanes * OutWidth + OutExps * OutExpBits
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

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;

  logic                 fire, credit, last, row_end, valid_q, last_q;
  logic [BeatWidth-1:0] beat_q;
  logic [ColWidth-1:0]  col_q;
  logic [OutBits-1:0]   decoded, decoded_q;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);
  assign row_end    = col_q == ColWidth'(RowBeats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      col_q   <= '0;
      valid_q <= 1'b0;
    end else begin
      if (fire) begin
        beat_q <= last ? '0 : beat_q + BeatWidth'(1);
        col_q  <= row_end ? '0 : col_q + ColWidth'(1);
      end
      valid_q <= fire;
    end
  end
  always_ff @(posedge clk_i) begin
    decoded_q <= decoded;
    last_q    <= last;
  end

  // A scale is its digits and its shift.
  localparam int Factor = FieldMan + 1;
  logic [((InExps > 0) ? InExps : 1)*Factor-1:0] factors;
  if (FieldExp == 0) begin : gen_no_scale
    logic unused_factors;
    assign factors = '0;
    assign unused_factors = ^factors;
  end else begin : gen_scale
    for (genvar e = 0; e < InExps; e++) begin : gen_field
      logic [InExpBits-1:0] field, number;
      logic [FieldExp-1:0]  high;
      logic                 whole;
      assign field  = in_data_i[Lanes*Width + e*InExpBits +: InExpBits];
      assign number = (field > InExpBits'(FieldTop)) ? InExpBits'(FieldTop) : field;
      assign high   = number[InExpBits-1:FieldMan];
      assign whole  = high != '0;
      assign factors[e*Factor +: Factor] = {whole, number[FieldMan-1:0]};
      assign decoded[Lanes*OutWidth + e*OutExpBits +: OutExpBits] = OutExpBits'(whole ? high - FieldExp'(1) : high);
    end
  end

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic [Width-1:0]    code;
    logic [OutWidth-1:0] y;
    logic                kept;  // a lane of the row
    assign code = in_data_i[l*Width +: Width];
    assign kept = (l < Tail) || !row_end;
    assign decoded[l*OutWidth +: OutWidth] = kept ? y : '0;

    if (ExpBits == 0) begin : gen_integer
      if (Signed) begin : gen_signed
        assign y = OutWidth'($signed(code)) - OutWidth'(Zero);
      end else begin : gen_unsigned
        assign y = OutWidth'(code) - OutWidth'(Zero);
      end
    end else begin : gen_pattern
      localparam int Digits = ManBits + 1;
      logic [Width-2:0]   number;
      logic [ExpBits-1:0] field, shift;
      logic [Digits-1:0]  digits;
      logic               hidden;
      if (Top == (1 << (Width - 1)) - 1) begin : gen_all
        assign number = code[Width-2:0];
      end else begin : gen_most
        assign number = (code[Width-2:0] > (Width - 1)'(Top)) ? (Width - 1)'(Top) : code[Width-2:0];
      end
      assign field  = number[Width-2:ManBits];
      assign hidden = !Subnormal || field != '0;
      assign shift  = (Subnormal && hidden) ? field - ExpBits'(1) : field;
      if (ManBits == 0) begin : gen_power
        assign digits = hidden;
      end else begin : gen_mantissa
        assign digits = {hidden, number[ManBits-1:0]};
      end
      if (Own == 0) begin : gen_shifted
        logic [OutWidth-1:0] size;
        if (FieldExp == 0) begin : gen_alone
          assign size = OutWidth'(digits) << shift;
        end else begin : gen_scaled
          localparam int Index = (InExps > 1) ? l / InBlock : 0;
          assign size = (OutWidth'(digits) << shift) * OutWidth'(factors[Index*Factor +: Factor]);
        end
        assign y    = code[Width-1] ? -size : size;
      end else begin : gen_own
        logic [OutExpBits-1:0] exponent;
        assign y = code[Width-1] ? -OutWidth'(digits) : OutWidth'(digits);
        if (InExpBits == 0) begin : gen_alone
          assign exponent = OutExpBits'(shift);
        end else begin : gen_block
          localparam int Index = (InExps > 1) ? l / InBlock : 0;
          assign exponent = OutExpBits'(shift) + OutExpBits'(in_data_i[Lanes*Width + Index*InExpBits +: InExpBits]);
        end
        assign decoded[Lanes*OutWidth + l*OutExpBits +: OutExpBits] = kept ? exponent : '0;
      end
    end
  end

  if (Own == 0 && InExpBits != 0 && FieldExp == 0) begin : gen_pass
    assign decoded[OutBits-1:Lanes*OutWidth] = in_data_i[InBits-1:Lanes*Width];
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q),
    .push_data_i({last_q, decoded_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
