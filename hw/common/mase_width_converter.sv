// Re-chunk rows of units: input beats carry InUnits units of UnitWidth bits, output beats OutUnits, unit 0 lowest.
//
// An input row is InBeats beats of which the last counts InTail units; an output row is OutBeats beats, the last with
// OutTail units and zeros above them. Units keep their order. With DropTail an output row's end also empties the
// buffer, so that both sides start a row together. out_last_o marks the last beat of each Rows output rows.
// Firing: at most one a cycle, from registered counts alone: it takes an input beat if the buffer holds too few units
// for the next output beat, and gives that output beat if it then holds enough. Latency 2 cycles from firing to
// out_valid_o, one firing a cycle from FifoDepth 3 on. in_ready_o depends on registers only.

`default_nettype none

module mase_width_converter #(
  parameter int UnitWidth = 8,
  parameter int InUnits   = 1,
  parameter int OutUnits  = 1,
  parameter int InBeats   = 1,
  parameter int InTail    = 1,
  parameter int OutBeats  = 1,
  parameter int OutTail   = 1,
  parameter int Rows      = 1,
  parameter int DropTail  = 0,
  parameter int FifoDepth = 3
) (
  input  wire logic                          clk_i,
  input  wire logic                          rst_ni,

  input  wire logic                          in_valid_i,
  output      logic                          in_ready_o,
  input  wire logic [InUnits*UnitWidth-1:0]  in_data_i,

  output      logic                          out_valid_o,
  input  wire logic                          out_ready_i,
  output      logic [OutUnits*UnitWidth-1:0] out_data_o,
  output      logic                          out_last_o
);

  // An input beat is taken only while fewer than OutUnits units are held. Whatever a firing leaves is less than an
  // output beat (it gave none) or less than an input beat (it gave one), so the registers hold fewer units.
  localparam int Capacity = InUnits + OutUnits - 1;
  localparam int Larger = (InUnits > OutUnits) ? InUnits : OutUnits;
  localparam int Kept = (Larger > 1) ? Larger - 1 : 1;
  localparam int CountWidth = $clog2(Capacity + 1);
  localparam int InBeatWidth = (InBeats > 1) ? $clog2(InBeats) : 1;
  localparam int OutBeatWidth = (OutBeats > 1) ? $clog2(OutBeats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam int InWidth = InUnits * UnitWidth;
  localparam int OutWidth = OutUnits * UnitWidth;
  localparam int TailWidth = OutTail * UnitWidth;

  logic [CountWidth-1:0]   count_q;
  logic [InBeatWidth-1:0]  in_beat_q;
  logic [OutBeatWidth-1:0] out_beat_q;
  logic [RowWidth-1:0]     row_q;

  logic                    in_row_end;
  logic                    out_row_end;
  logic                    sample_end;
  logic                    consume;
  logic                    produce;
  logic                    credit;
  logic                    fire;
  logic [CountWidth-1:0]   needed;
  logic [CountWidth-1:0]   held;
  logic [CountWidth-1:0]   left;

  assign in_row_end  = in_beat_q == InBeatWidth'(InBeats - 1);
  assign out_row_end = out_beat_q == OutBeatWidth'(OutBeats - 1);
  assign sample_end  = out_row_end && row_q == RowWidth'(Rows - 1);

  assign needed      = out_row_end ? CountWidth'(OutTail) : CountWidth'(OutUnits);
  assign consume     = count_q < needed;
  assign held        = !consume ? count_q : count_q + (in_row_end ? CountWidth'(InTail) : CountWidth'(InUnits));
  assign produce     = held >= needed;
  assign left        = (DropTail != 0 && out_row_end) ? '0 : held - needed;

  assign in_ready_o  = consume && (!produce || credit);
  assign fire        = (!consume || in_valid_i) && (!produce || credit);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      count_q    <= '0;
      in_beat_q  <= '0;
      out_beat_q <= '0;
      row_q      <= '0;
    end else if (fire) begin
      count_q <= produce ? left : held;
      if (consume) in_beat_q <= in_row_end ? '0 : in_beat_q + InBeatWidth'(1);
      if (produce) out_beat_q <= out_row_end ? '0 : out_beat_q + OutBeatWidth'(1);
      if (produce && out_row_end) row_q <= sample_end ? '0 : row_q + RowWidth'(1);
    end
  end

  // The units held, with the input beat set in above them. What lies above the count is rubbish and is overwritten
  // before it counts, so at most InUnits - 1 units ever have to move down after an output beat.
  logic [Kept*UnitWidth-1:0]     buffer_q;
  logic [Kept*UnitWidth-1:0]     buffer_d;
  logic [Capacity*UnitWidth-1:0] filled;
  logic [OutWidth-1:0]           beat_d;

  always_comb begin
    filled = (Capacity * UnitWidth)'(buffer_q);
    for (int unit = 0; unit < OutUnits; unit++) begin
      if (consume && count_q == CountWidth'(unit)) filled[unit*UnitWidth+:InWidth] = in_data_i;
    end
  end

  for (genvar unit = 0; unit < Kept; unit++) begin : gen_buffer
    logic [UnitWidth-1:0] stay;
    assign stay = filled[unit*UnitWidth+:UnitWidth];
    if (unit < InUnits - 1) begin : gen_moved
      logic [UnitWidth-1:0] moved;
      assign moved = out_row_end ? filled[(unit+OutTail)*UnitWidth+:UnitWidth]
                                 : filled[(unit+OutUnits)*UnitWidth+:UnitWidth];
      assign buffer_d[unit*UnitWidth+:UnitWidth] = produce ? moved : stay;
    end else begin : gen_stay
      assign buffer_d[unit*UnitWidth+:UnitWidth] = stay;
    end
  end

  if (OutTail < OutUnits) begin : gen_tail
    assign beat_d = {
      out_row_end ? {(OutWidth - TailWidth) {1'b0}} : filled[OutWidth-1:TailWidth], filled[TailWidth-1:0]
    };
  end else begin : gen_no_tail
    assign beat_d = filled[OutWidth-1:0];
  end

  logic                push_q;
  logic                last_q;
  logic [OutWidth-1:0] beat_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) push_q <= 1'b0;
    else push_q <= fire && produce;
  end

  always_ff @(posedge clk_i) begin
    if (fire) buffer_q <= buffer_d;
    if (fire && produce) begin
      beat_q <= beat_d;
      last_q <= sample_end;
    end
  end

  mase_credit_fifo #(
    .Width(OutWidth + 1),
    .Depth(FifoDepth)
  ) u_fifo (
    .clk_i,
    .rst_ni,
    .take_i      (fire && produce),
    .credit_o    (credit),
    .push_i      (push_q),
    .push_data_i ({last_q, beat_q}),
    .out_valid_o,
    .out_ready_i,
    .out_data_o  ({out_last_o, out_data_o})
  );

`ifndef SYNTHESIS
  always @(posedge clk_i or negedge rst_ni) begin
    if (rst_ni) begin
      assert (32'(count_q) <= Kept);
      // With DropTail the parameters must let both rows end in the same firing.
      assert (DropTail == 0 || !fire || !produce || !out_row_end || (consume ? in_row_end : in_beat_q == '0));
    end
  end
`endif

`ifdef FORMAL
  `include "mase_width_converter_formal.svh"
`endif

endmodule

`default_nettype wire
