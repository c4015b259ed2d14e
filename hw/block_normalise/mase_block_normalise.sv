// Gather blocks of exact integers and give each block one exponent and rounded elements (MXINT, BFP, MXFP).
//
//   e = clamp(msb(max |t| of the block) + Offset, 0, Most)      exponent above the window's base
//       one more where that maximum begins with a one and RiseOnes ones, and RiseMore: has anything behind these
//   m = clamp(round_even(t * 2**(Offset + Point - e)), +-(2**(Width-1) - 1))     one less below where not Narrow
//   or, with FloatExp bits of exponent, the nearest number of a sign, an exponent and a mantissa (mase_float_round)
//   or, with Log, the power of two nearest in the logarithm (mase_log_round)
//
// Offset is the exponent of t's unit less the base and less how far e lies below the maximum; Point is the exponent
// of e's 1 less that of an element's. A carry never changes e; a zero block has e = 0; partial blocks count as zero
// beyond the row. Beats hold Lanes elements: a part of a block, or several blocks. Two banks: one fills while the other
// leaves, one beat a cycle each. A bank that filled in cycle t can start to leave in t + 1; a beat leaves 4 cycles (5:
// FloatExp) after it was read. in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_block_normalise #(
  parameter int Rows = 1,
  parameter int Cols = 8,
  parameter int Lanes = 2,
  parameter int InWidth = 16,
  parameter int Width = 8,
  parameter int Block = 4,
  parameter int ExpBits = 4,
  parameter int Most = 15,  // greatest exponent above the base
  parameter int Offset = 0,
  parameter int Point = 6,
  parameter int RiseOnes = -1,  // -1: never one more
  parameter bit RiseMore = 1'b0,
  parameter bit Narrow = 1'b1,
  parameter int FloatExp = 0,  // 0: elements are integers
  parameter int FloatTop = 0,  // greatest number, without its sign
  parameter bit Log = 1'b0,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int Exps = (Lanes > Block) ? Lanes / Block : 1,
  parameter int InBits = Lanes * InWidth,
  parameter int OutBits = Lanes * Width + Exps * ExpBits
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
  localparam int BlockBeats = (Block > Lanes) ? Block / Lanes : 1;
  localparam int Group = Lanes / Exps;  // lanes of a beat that share an exponent

  // ---- fill: one bank takes beats and the OR of their magnitudes ------------------------------------------------

  logic                    fill, fill_first, fill_last, fill_bank, leave, leave_bank, row_end, sample_end, credit;
  logic [Exps*InWidth-1:0] beat_or, gathered_q, gathered;
  logic [Exps*InWidth-1:0] or_q [2];
  logic [Exps-1:0]         more;  // the maximum of the bank that leaves is above a power of two, and that counts
  logic [InBits-1:0]       t_q;

  mase_block_banks #(
    .Rows(Rows), .RowBeats(RowBeats), .BlockBeats(BlockBeats), .Width(InBits)
  ) u_banks (
    .clk_i       (clk_i),
    .rst_ni      (rst_ni),
    .in_valid_i  (in_valid_i),
    .in_ready_o  (in_ready_o),
    .in_data_i   (in_data_i),
    .fill_o      (fill),
    .fill_first_o(fill_first),
    .fill_last_o (fill_last),
    .fill_bank_o (fill_bank),
    .credit_i    (credit),
    .leave_o     (leave),
    .leave_bank_o(leave_bank),
    .row_end_o   (row_end),
    .sample_end_o(sample_end),
    .data_o      (t_q)
  );
  logic unused_row_end;
  assign unused_row_end = row_end;

  for (genvar e = 0; e < Exps; e++) begin : gen_or
    logic [Group*InWidth-1:0] magnitude;
    logic [InWidth-1:0]       all;
    for (genvar i = 0; i < Group; i++) begin : gen_magnitude
      localparam int L = e * Group + i;
      assign magnitude[i*InWidth +: InWidth] =
        in_data_i[(L+1)*InWidth-1] ? -in_data_i[L*InWidth +: InWidth] : in_data_i[L*InWidth +: InWidth];
    end
    always_comb begin
      all = '0;
      for (int i = 0; i < Group; i++) all = all | magnitude[i*InWidth +: InWidth];
    end
    assign beat_or[e*InWidth +: InWidth] = all;
  end
  assign gathered = beat_or | (fill_first ? '0 : gathered_q);
  always_ff @(posedge clk_i) begin
    if (fill) gathered_q <= gathered;
    if (fill && fill_last) or_q[fill_bank] <= gathered;
  end

  // Of each magnitude the bits that would be such a leading one: of all together the leading bit, if one of them has it.
  if (RiseOnes < 0) begin : gen_floor
    assign more = '0;
  end else begin : gen_rise
    logic [Exps*InWidth-1:0] beat_above, above_q, above;
    logic [Exps*InWidth-1:0] above_or_q [2];
    for (genvar e = 0; e < Exps; e++) begin : gen_above
      logic [Group*InWidth-1:0] odd;
      logic [InWidth-1:0]       all, both;
      for (genvar i = 0; i < Group; i++) begin : gen_odd
        logic [InWidth-1:0] size, begins, behind;
        assign size = gen_or[e].magnitude[i*InWidth +: InWidth];
        always_comb begin
          begins = size;
          for (int k = 1; k <= RiseOnes; k++) begins = begins & (size << k);
        end
        // Bits above the least one have something behind them, also RiseOnes places further up.
        assign behind = RiseMore ? -((size & -size) << 1) << RiseOnes : '1;
        assign odd[i*InWidth +: InWidth] = begins & behind;
      end
      always_comb begin
        all = '0;
        for (int i = 0; i < Group; i++) all = all | odd[i*InWidth +: InWidth];
      end
      assign beat_above[e*InWidth +: InWidth] = all;
      // The leading bits agree where neither is above the other without that bit.
      assign both = or_q[leave_bank][e*InWidth +: InWidth] & ~above_or_q[leave_bank][e*InWidth +: InWidth];
      assign more[e] = both < above_or_q[leave_bank][e*InWidth +: InWidth];
    end
    assign above = beat_above | (fill_first ? '0 : above_q);
    always_ff @(posedge clk_i) begin
      if (fill) above_q <= above;
      if (fill && fill_last) above_or_q[fill_bank] <= above;
    end
  end

  // ---- exponent, shift, round ---------------------------------------------------------------------------------------

  localparam int Stages = (FloatExp != 0) ? 4 : 3;

  logic [Exps*ExpBits-1:0]        exp_d, exp_q;
  logic [Stages*Exps*ExpBits-1:0] exps_q;
  logic [Lanes*Width-1:0]         mantissa_q;
  logic [Stages-1:0]              valid_q, last_q;

  for (genvar e = 0; e < Exps; e++) begin : gen_exp
    logic up;
    assign up = more[e];
    always_comb begin
      exp_d[e*ExpBits +: ExpBits] = '0;
      for (int i = 0; i < InWidth; i++) begin
        if (or_q[leave_bank][e*InWidth+i]) begin
          exp_d[e*ExpBits +: ExpBits] =
            (i + Offset + (up ? 1 : 0) < 0) ? '0 :
            ExpBits'((i + Offset + (up ? 1 : 0) > Most) ? Most : i + Offset + (up ? 1 : 0));
        end
      end
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) valid_q <= '0;
    else valid_q <= {valid_q[Stages-2:0], leave};
  end
  always_ff @(posedge clk_i) begin
    exps_q <= {exps_q[(Stages-1)*Exps*ExpBits-1:0], exp_d};
    last_q <= {last_q[Stages-2:0], sample_end};
  end
  assign exp_q = exps_q[Exps*ExpBits-1:0];

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    if (FloatExp != 0) begin : gen_float
      localparam int Base = -(Offset + Point);  // bits dropped, less e
      localparam int DownWidth = $clog2(((Base < 0) ? -Base : Base) + Most + 2) + 1;
      logic [DownWidth-1:0] down;
      assign down = DownWidth'(Base) + DownWidth'(exp_q[(l/Group)*ExpBits +: ExpBits]);
      if (Log) begin : gen_log
        mase_log_round #(
          .InWidth(InWidth), .DownWidth(DownWidth), .ExpBits(FloatExp), .Top(FloatTop)
        ) u_round (
          .clk_i (clk_i),
          .in_i  (t_q[l*InWidth +: InWidth]),
          .down_i(down),
          .out_o (mantissa_q[l*Width +: Width])
        );
      end else begin : gen_minifloat
        mase_float_round #(
          .InWidth(InWidth), .DownWidth(DownWidth), .ExpBits(FloatExp), .ManBits(Width - 1 - FloatExp),
          .Top(FloatTop)
        ) u_round (
          .clk_i (clk_i),
          .in_i  (t_q[l*InWidth +: InWidth]),
          .down_i(down),
          .out_o (mantissa_q[l*Width +: Width])
        );
      end
    end else begin : gen_integer
      localparam int Up = (Offset + Point > 0) ? Offset + Point : 0;     // t << Up ...
      localparam int Down = (Offset + Point < 0) ? -(Offset + Point) : 0;  // ... >> (e + Down)
      localparam int Wide = InWidth + Up + 1;                              // a bit below for the half
      localparam int ShiftWidth = $clog2((1 << ExpBits) + Down);
      localparam int Kept = (Wide > Width + 2) ? Wide : Width + 2;
      localparam logic [Kept-1:0] High = Kept'((1 << (Width - 1)) - 1);
      localparam logic [Kept-1:0] Low = Narrow ? -High : -High - Kept'(1);
      logic [ShiftWidth-1:0]  shift;
      logic signed [Wide-1:0] high;
      logic [Wide-1:0]        lost;
      logic signed [Kept-1:0] kept_q, floored, rounded;
      logic                   sticky_q;
      assign shift = ShiftWidth'(exp_q[(l/Group)*ExpBits +: ExpBits]) + ShiftWidth'(Down);
      assign high  = Wide'($signed({t_q[l*InWidth +: InWidth], 1'b0})) << Up;
      assign lost  = high & ~({Wide{1'b1}} << shift);
      always_ff @(posedge clk_i) begin
        kept_q   <= Kept'(high >>> shift);
        sticky_q <= lost != '0;
      end
      // kept_q[0] is the half: up if more than the half was dropped, or on a tie if the result is odd.
      assign floored = kept_q >>> 1;  // alone: a sum with an unsigned number would make the shift logical
      assign rounded = floored + Kept'(kept_q[0] && (sticky_q || kept_q[1]));
      always_ff @(posedge clk_i) begin
        if (rounded > $signed(High)) mantissa_q[l*Width +: Width] <= High[Width-1:0];
        else if (rounded < $signed(Low)) mantissa_q[l*Width +: Width] <= Low[Width-1:0];
        else mantissa_q[l*Width +: Width] <= rounded[Width-1:0];
      end
    end
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (leave),
    .credit_o   (credit),
    .push_i     (valid_q[Stages-1]),
    .push_data_i({last_q[Stages-1], exps_q[(Stages-1)*Exps*ExpBits +: Exps*ExpBits], mantissa_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
