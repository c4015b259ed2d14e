// Gather blocks of exact integers; give each block the code of a scale, and elements codes under it (NVFP4).
//
//   scale   = First + how many bounds the greatest |t| of the block has reached
//   element = the sign of t, and how many of the Steps bounds under that scale |t| has reached
//
// Nothing is divided: bounds are the least integers with each code, found from the rounding of the software, and both
// functions never fall. Of |t| only what lies between bounds is kept: Keep bits from bit Drop on. What is above counts as
// all ones, what is below as one more bit that says whether any of it is set. Memories hold the numbers below the bounds.
//
//   ScaleFile    word a, a being 0 for 0 and else one above the place of the leading bit: Near bounds that some of these
//                numbers have reached, and over them how many bounds all have
//   ElementFile  word s: the Steps bounds under the scale First + s
//
// One beat leaves a cycle, 5 cycles and one for each halving of a block after it was read. Blocks beyond the end of a row
// give 0. in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_block_scale #(
  parameter int Rows = 1,
  parameter int Cols = 16,
  parameter int Lanes = 2,
  parameter int InWidth = 16,
  parameter int Block = 16,
  parameter int Drop = 0,
  parameter int Keep = 16,
  parameter int Steps = 7,
  parameter int Near = 8,
  parameter int Scales = 119,  // codes of a scale, from First on
  parameter int First = 8,
  parameter int ScaleBits = 7,
  parameter ScaleFile = "",
  parameter ElementFile = "",
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int Width = 1 + $clog2(Steps + 1),
  parameter int Exps = (Lanes > Block) ? Lanes / Block : 1,
  parameter int InBits = Lanes * InWidth,
  parameter int OutBits = Lanes * Width + Exps * ScaleBits
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
  localparam int Group = Lanes / Exps;  // lanes of a beat that share a scale
  localparam int Inside = (Cols - (RowBeats - 1) * Lanes + Group - 1) / Group;  // blocks of the last beat of a row
  localparam int Bits = Keep + ((Drop > 0) ? 1 : 0);
  localparam int Halvings = $clog2(Block);
  localparam int Early = $clog2(Group);  // those within a beat
  localparam int Stages = Halvings + 4;
  localparam int CodeBits = (Scales > 1) ? $clog2(Scales) : 1;
  localparam int LeadBits = $clog2(Bits + 1);
  localparam int RankBits = Near * Bits + CodeBits;

  // ---- fill: one bank takes signs and sizes -------------------------------------------------------------------------

  logic                      fill, fill_first, fill_last, fill_bank, leave, leave_bank, row_end, sample_end, credit;
  logic [Lanes*Bits-1:0]     sizes;
  logic [Lanes-1:0]          signs;
  logic [Lanes*(Bits+1)-1:0] t_q;

  for (genvar l = 0; l < Lanes; l++) begin : gen_size
    logic [InWidth-1:0] number, size;
    logic [Keep-1:0]    kept;
    logic               above;
    assign number   = in_data_i[l*InWidth +: InWidth];
    assign size     = number[InWidth-1] ? -number : number;
    assign signs[l] = number[InWidth-1];
    if (Drop + Keep < InWidth) begin : gen_most
      assign above = size[InWidth-1:Drop+Keep] != '0;
    end else begin : gen_all
      assign above = 1'b0;
    end
    assign kept = above ? '1 : size[Drop +: Keep];
    if (Drop > 0) begin : gen_below
      assign sizes[l*Bits +: Bits] = {kept, above || size[Drop-1:0] != '0};
    end else begin : gen_exact
      assign sizes[l*Bits +: Bits] = kept;
    end
  end

  mase_block_banks #(
    .Rows(Rows), .RowBeats(RowBeats), .BlockBeats(BlockBeats), .Width(Lanes * (Bits + 1))
  ) u_banks (
    .clk_i       (clk_i),
    .rst_ni      (rst_ni),
    .in_valid_i  (in_valid_i),
    .in_ready_o  (in_ready_o),
    .in_data_i   ({signs, sizes}),
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

  // ---- the greatest of a block, Halvings cycles behind its beats ----------------------------------------------------

  logic [Halvings:0]    fills;
  logic                 first, last, bank, top_bank;
  logic [Exps*Bits-1:0] beat_most, most, gathered, gathered_q, top;
  logic [Exps*Bits-1:0] top_q [2];

  assign fills[0] = fill;
  for (genvar h = 0; h < Halvings; h++) begin : gen_fill
    logic fill_q;
    always_ff @(posedge clk_i or negedge rst_ni) begin
      if (!rst_ni) fill_q <= 1'b0;
      else fill_q <= fills[h];
    end
    assign fills[h+1] = fill_q;
  end
  mase_delay #(.Width(3), .Cycles(Halvings)) u_fill (
    .clk_i (clk_i),
    .data_i({fill_first, fill_last, fill_bank}),
    .data_o({first, last, bank})
  );
  mase_delay #(.Width(1), .Cycles(Halvings)) u_bank (
    .clk_i (clk_i),
    .data_i(leave_bank),
    .data_o(top_bank)
  );
  mase_delay #(.Width(Exps * Bits), .Cycles(Halvings - Early)) u_most (
    .clk_i (clk_i),
    .data_i(beat_most),
    .data_o(most)
  );

  for (genvar e = 0; e < Exps; e++) begin : gen_greatest
    logic [Group*(Bits+1)-1:0] numbers;
    logic [Bits:0]             found;
    logic [Bits-1:0]           now, past;
    for (genvar i = 0; i < Group; i++) begin : gen_number
      assign numbers[i*(Bits+1) +: Bits+1] = {1'b0, sizes[(e*Group+i)*Bits +: Bits]};
    end
    mase_max_tree #(.Count(Group), .Width(Bits + 1)) u_tree (
      .clk_i (clk_i),
      .data_i(numbers),
      .max_o (found)
    );
    logic unused_sign;
    assign unused_sign = found[Bits];
    assign beat_most[e*Bits +: Bits] = found[Bits-1:0];
    assign now  = most[e*Bits +: Bits];
    assign past = gathered_q[e*Bits +: Bits];
    assign gathered[e*Bits +: Bits] = (first || now > past) ? now : past;
  end
  always_ff @(posedge clk_i) begin
    if (fills[Halvings]) gathered_q <= gathered;
    if (fills[Halvings] && last) top_q[bank] <= gathered;
  end
  assign top = top_q[top_bank];

  // ---- the scale: by the leading bit, then by the bounds near it ----------------------------------------------------

  logic                        beyond;  // blocks from Inside on are no part of the row
  logic [Exps*CodeBits-1:0]    code_q;
  logic [Exps*ScaleBits-1:0]   field_q, field;
  logic [Lanes*Bits-1:0]       late;
  logic [Lanes-1:0]            late_signs;
  logic [Lanes*Width-1:0]      result_q;
  logic [Stages-1:0]           valid_q;
  logic                        sample_last;

  mase_delay #(.Width(1), .Cycles(Halvings + 1)) u_row_end (
    .clk_i (clk_i),
    .data_i(row_end),
    .data_o(beyond)
  );
  mase_delay #(.Width(1), .Cycles(Stages)) u_last (
    .clk_i (clk_i),
    .data_i(sample_end),
    .data_o(sample_last)
  );
  mase_delay #(.Width(Lanes * (Bits + 1)), .Cycles(Halvings + 2)) u_late (
    .clk_i (clk_i),
    .data_i(t_q),
    .data_o({late_signs, late})
  );
  mase_delay #(.Width(Exps * ScaleBits), .Cycles(2)) u_field (
    .clk_i (clk_i),
    .data_i(field_q),
    .data_o(field)
  );

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) valid_q <= '0;
    else valid_q <= {valid_q[Stages-2:0], leave};
  end

  for (genvar e = 0; e < Exps; e++) begin : gen_scale
    logic [Bits-1:0]       number, number_q;
    logic [LeadBits-1:0]   lead;
    logic [RankBits-1:0]   rank;
    logic [CodeBits-1:0]   code, passed;
    logic [Near-1:0]       reached;
    logic [Steps*Bits-1:0] bounds;
    assign number = top[e*Bits +: Bits];
    always_comb begin
      lead = '0;
      for (int i = 0; i < Bits; i++) begin
        if (number[i]) lead = LeadBits'(i + 1);
      end
    end
    mase_rom #(.Width(RankBits), .Depth(Bits + 1), .File(ScaleFile)) u_scale (
      .clk_i (clk_i),
      .addr_i(lead),
      .data_o(rank)
    );
    assign passed = rank[RankBits-1:Near*Bits];
    for (genvar k = 0; k < Near; k++) begin : gen_near
      assign reached[k] = number_q > rank[k*Bits +: Bits];
    end
    always_comb begin
      code = passed;
      for (int k = 0; k < Near; k++) code = code + CodeBits'(reached[k]);
    end
    always_ff @(posedge clk_i) begin
      number_q                       <= number;
      code_q[e*CodeBits +: CodeBits] <= code;
      field_q[e*ScaleBits +: ScaleBits] <=
        (beyond && e >= Inside) ? '0 : ScaleBits'(First) + ScaleBits'(code);
    end
    mase_rom #(
      .Width(Steps * Bits),
      .Depth(Scales),
      .File (ElementFile)
    ) u_element (
      .clk_i (clk_i),
      .addr_i(code_q[e*CodeBits +: CodeBits]),
      .data_o(bounds)
    );

    // ---- its elements -------------------------------------------------------------------------------------------------

    for (genvar i = 0; i < Group; i++) begin : gen_element
      localparam int L = e * Group + i;
      logic [Steps-1:0] past;
      logic [Width-2:0] steps;
      for (genvar k = 0; k < Steps; k++) begin : gen_step
        assign past[k] = late[L*Bits +: Bits] > bounds[k*Bits +: Bits];
      end
      always_comb begin
        steps = '0;
        for (int k = 0; k < Steps; k++) steps = steps + (Width-1)'(past[k]);
      end
      always_ff @(posedge clk_i) result_q[L*Width +: Width] <= {late_signs[L] && steps != '0, steps};
    end
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (leave),
    .credit_o   (credit),
    .push_i     (valid_q[Stages-1]),
    .push_data_i({sample_last, field, result_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
