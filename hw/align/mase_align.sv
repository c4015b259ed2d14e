// Bring blocks to one exponent for each group of Taps rows, before a sum over these rows starts.
//
//   E[b] = max(Least[b], exponents of block b in all rows of the group)
//   y[t][c] = (x[t][c] << Guard) >>> (E[b] - e[t][b])        floor; E travels with every row
//
// A row is Beats beats of Lanes columns. Two banks of a group: one fills while the other leaves, one beat a cycle each. A
// bank that filled in cycle t can start to leave in t + 1; a beat leaves 3 cycles after it was read. Least is a ROM of one
// word a beat (LeastFile), or, without HasLeast, 0. in_ready_o and out_valid_o come from registers.

`default_nettype none

module mase_align #(
  parameter int Groups = 1,  // of a sample
  parameter int Taps = 2,
  parameter int Beats = 1,
  parameter int Lanes = 2,
  parameter int Width = 8,
  parameter bit Signed = 1'b1,
  parameter int ExpBits = 4,
  parameter int Block = 2,
  parameter int Guard = 4,
  parameter int OutWidth = 12,  // that of x as a signed number, and Guard
  parameter bit HasLeast = 1'b0,
  parameter int FifoDepth = 2,
  parameter     LeastFile = "",
  // Derived, do not override.
  parameter int Exps = (Lanes > Block) ? Lanes / Block : 1,
  parameter int InBits = Lanes * Width + Exps * ExpBits,
  parameter int OutBits = Lanes * OutWidth + Exps * ExpBits
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

  localparam int Words = Taps * Beats;  // of a bank
  localparam int Address = $clog2(2 * Words);
  localparam int Place = $clog2(2 * Beats);
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int TapWidth = (Taps > 1) ? $clog2(Taps) : 1;
  localparam int GroupWidth = (Groups > 1) ? $clog2(Groups) : 1;
  localparam int E = Exps * ExpBits;

  logic [InBits-1:0] bank [2*Words];
  logic [E-1:0]      most [2*Beats];  // greatest exponent of each block of columns so far
  logic [1:0]        full_q;

  // ---- fill --------------------------------------------------------------------------------------------------------

  logic                 fill_bank_q, fill, fill_end;
  logic [BeatWidth-1:0] fill_beat_q;
  logic [TapWidth-1:0]  fill_tap_q;
  logic [Address-1:0]   write_q;
  logic [Place-1:0]     fill_place;
  logic [E-1:0]         seen, greatest;

  assign in_ready_o = !full_q[fill_bank_q];
  assign fill       = in_valid_i && in_ready_o;
  assign fill_end   = fill_beat_q == BeatWidth'(Beats - 1) && fill_tap_q == TapWidth'(Taps - 1);
  assign fill_place = Place'(fill_beat_q) + (fill_bank_q ? Place'(Beats) : '0);
  assign seen       = most[fill_place];

  for (genvar e = 0; e < Exps; e++) begin : gen_greatest
    logic [ExpBits-1:0] now, past;
    assign now  = in_data_i[Lanes*Width + e*ExpBits +: ExpBits];
    assign past = seen[e*ExpBits +: ExpBits];
    assign greatest[e*ExpBits +: ExpBits] = (fill_tap_q == '0 || now > past) ? now : past;
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      fill_bank_q <= 1'b0;
      fill_beat_q <= '0;
      fill_tap_q  <= '0;
      write_q     <= '0;
    end else if (fill) begin
      write_q     <= (write_q == Address'(2 * Words - 1)) ? '0 : write_q + Address'(1);
      fill_beat_q <= (fill_beat_q == BeatWidth'(Beats - 1)) ? '0 : fill_beat_q + BeatWidth'(1);
      if (fill_beat_q == BeatWidth'(Beats - 1)) begin
        fill_tap_q <= (fill_tap_q == TapWidth'(Taps - 1)) ? '0 : fill_tap_q + TapWidth'(1);
      end
      if (fill_end) fill_bank_q <= !fill_bank_q;
    end
  end
  always_ff @(posedge clk_i) begin
    if (fill) begin
      bank[write_q]    <= in_data_i;
      most[fill_place] <= greatest;
    end
  end

  // ---- leave -------------------------------------------------------------------------------------------------------

  logic                  leave_bank_q, leave, leave_end, sample_end, credit;
  logic [BeatWidth-1:0]  beat_q;
  logic [TapWidth-1:0]   tap_q;
  logic [GroupWidth-1:0] group_q;
  logic [Address-1:0]    read_q;
  logic [1:0]            valid_q, last_q;
  logic [InBits-1:0]     word_q;
  logic [E-1:0]          most_q, top, top_q;
  logic [Lanes*OutWidth-1:0] shifted_q;

  assign leave      = full_q[leave_bank_q] && credit;
  assign leave_end  = beat_q == BeatWidth'(Beats - 1) && tap_q == TapWidth'(Taps - 1);
  assign sample_end = leave_end && group_q == GroupWidth'(Groups - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      leave_bank_q <= 1'b0;
      beat_q       <= '0;
      tap_q        <= '0;
      group_q      <= '0;
      read_q       <= '0;
      full_q       <= '0;
      valid_q      <= '0;
    end else begin
      valid_q <= {valid_q[0], leave};
      if (leave) begin
        read_q <= (read_q == Address'(2 * Words - 1)) ? '0 : read_q + Address'(1);
        beat_q <= (beat_q == BeatWidth'(Beats - 1)) ? '0 : beat_q + BeatWidth'(1);
        if (beat_q == BeatWidth'(Beats - 1)) tap_q <= (tap_q == TapWidth'(Taps - 1)) ? '0 : tap_q + TapWidth'(1);
        if (leave_end) begin
          group_q              <= sample_end ? '0 : group_q + GroupWidth'(1);
          leave_bank_q         <= !leave_bank_q;
          full_q[leave_bank_q] <= 1'b0;
        end
      end
      if (fill && fill_end) full_q[fill_bank_q] <= 1'b1;
    end
  end
  always_ff @(posedge clk_i) begin
    if (leave) word_q <= bank[read_q];
    most_q <= most[Place'(beat_q) + (leave_bank_q ? Place'(Beats) : '0)];
    last_q <= {last_q[0], sample_end};
  end

  if (!HasLeast) begin : gen_no_least
    assign top = most_q;
  end else begin : gen_least
    logic [E-1:0] least;
    mase_rom #(.Width(E), .Depth(Beats), .File(LeastFile)) u_least (
      .clk_i (clk_i),
      .addr_i(beat_q),
      .data_o(least)
    );
    for (genvar e = 0; e < Exps; e++) begin : gen_top
      logic [ExpBits-1:0] a, b;
      assign a = most_q[e*ExpBits +: ExpBits];
      assign b = least[e*ExpBits +: ExpBits];
      assign top[e*ExpBits +: ExpBits] = (b > a) ? b : a;
    end
  end
  always_ff @(posedge clk_i) top_q <= top;

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    localparam int Index = (Exps > 1) ? l / Block : 0;
    logic [Width-1:0]           code;
    logic signed [OutWidth-1:0] x, high;
    logic [ExpBits-1:0]         down;
    assign code = word_q[l*Width +: Width];
    if (Signed) begin : gen_signed
      assign x = OutWidth'($signed(code));
    end else begin : gen_unsigned
      assign x = OutWidth'(code);
    end
    assign high = x << Guard;
    assign down = top[Index*ExpBits +: ExpBits] - word_q[Lanes*Width + Index*ExpBits +: ExpBits];
    always_ff @(posedge clk_i) shifted_q[l*OutWidth +: OutWidth] <= high >>> down;
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (leave),
    .credit_o   (credit),
    .push_i     (valid_q[1]),
    .push_data_i({last_q[1], top_q, shifted_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
