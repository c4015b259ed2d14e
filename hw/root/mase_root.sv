// Reciprocal or inverse square root of each number A >= 1, by its definition: an exact floor.
//
//   r = max { r < 2**Bits : r**Power * A <= Top }            Power 1 or 2
//
// Top is TopHigh * 2**31 + TopLow. Bit by bit from the top, Unroll bits a cycle: a bit is set where what it adds to
// r**Power * A still fits in the rest, and is then taken from it; adders and shifts alone, no table, no rounding.
// Also is the width of a second lane that passes beside A, 0 without one. One number in ceil(Bits / Unroll) + 1 cycles,
// offered one cycle after that. in_ready_o and out_valid_o depend on registers only.

`default_nettype none

module mase_root #(
  parameter int Rows = 1,
  parameter int Power = 2,
  parameter int Bits = 8,
  parameter int Unroll = 1,
  parameter int ArgWidth = 12,  // of a lane of the input
  parameter int Also = 0,
  parameter int TopHigh = 0,
  parameter int TopLow = 65535,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int InBits = (Also != 0) ? 2 * ArgWidth : ArgWidth,
  parameter int Lane = (Also == 0) ? Bits : (Also > Bits + 1) ? Also : Bits + 1,  // signed beside a second one
  parameter int OutBits = (Also != 0) ? 2 * Lane : Lane
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

  localparam int Steps = (Bits + Unroll - 1) / Unroll;
  localparam int Padded = Steps * Unroll;  // bits that are worked out; those above Bits are never set
  localparam int Wide = (ArgWidth + Power * Padded > 63) ? ArgWidth + Power * Padded : 63;
  localparam int StepWidth = $clog2(Steps + 1);
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;
  localparam logic [Wide-1:0] Top = Wide'({31'(TopHigh), 31'(TopLow)});

  logic [StepWidth-1:0] left_q;
  logic [RowWidth-1:0]  row_q;
  logic                 credit, fire, push_q, last_q;
  // For bit j: weight_q is A * 2**(Power * j), twice_q is 2 * r * A * 2**j where Power is 2, else 0.
  logic [Wide-1:0]      weight_q, twice_q, rest_q;
  logic [Padded-1:0]    root_q;

  assign in_ready_o = credit && left_q == '0;
  assign fire       = in_valid_i && in_ready_o;

  // The bits of a step, one after the other.
  for (genvar i = 0; i < Unroll; i++) begin : gen_bit
    logic [Wide-1:0]   weight, twice, rest, added, next_weight, next_twice, next_rest;
    logic [Padded-1:0] root, next_root;
    logic              above, set;
    if (i == 0) begin : gen_first
      assign weight = weight_q;
      assign twice  = twice_q;
      assign rest   = rest_q;
      assign root   = root_q;
    end else begin : gen_further
      assign weight = gen_bit[i-1].next_weight;
      assign twice  = gen_bit[i-1].next_twice;
      assign rest   = gen_bit[i-1].next_rest;
      assign root   = gen_bit[i-1].next_root;
    end
    assign added       = weight + twice;
    assign above       = (Padded > Bits) && i < Padded - Bits && left_q == StepWidth'(Steps);
    assign set         = added <= rest && !above;
    assign next_weight = weight >> Power;
    assign next_rest   = rest - (set ? added : '0);
    assign next_root   = Padded'({root, set});
    if (Power == 2) begin : gen_square
      assign next_twice = (twice >> 1) + (set ? weight : '0);
    end else begin : gen_line
      assign next_twice = '0;
    end
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      left_q <= '0;
      row_q  <= '0;
      push_q <= 1'b0;
    end else begin
      if (fire) left_q <= StepWidth'(Steps);
      else if (left_q != '0) left_q <= left_q - StepWidth'(1);
      if (fire) row_q <= (row_q == RowWidth'(Rows - 1)) ? '0 : row_q + RowWidth'(1);
      push_q <= left_q == StepWidth'(1);
    end
  end
  always_ff @(posedge clk_i) begin
    if (fire) begin
      weight_q <= Wide'(in_data_i[ArgWidth-1:0]) << (Power * (Padded - 1));
      twice_q  <= '0;
      rest_q   <= Top;
      root_q   <= '0;
      last_q   <= row_q == RowWidth'(Rows - 1);
    end else if (left_q != '0) begin
      weight_q <= gen_bit[Unroll-1].next_weight;
      twice_q  <= gen_bit[Unroll-1].next_twice;
      rest_q   <= gen_bit[Unroll-1].next_rest;
      root_q   <= gen_bit[Unroll-1].next_root;
    end
  end

  logic [OutBits-1:0] result;
  if (Also != 0) begin : gen_also
    logic [Also-1:0] also_q;
    if (ArgWidth > Also) begin : gen_unused
      logic unused;
      assign unused = &{1'b0, in_data_i[InBits-1:ArgWidth+Also]};
    end
    always_ff @(posedge clk_i) if (fire) also_q <= in_data_i[ArgWidth +: Also];
    assign result = {Lane'($signed(also_q)), Lane'(root_q[Bits-1:0])};
  end else begin : gen_alone
    assign result = root_q[Bits-1:0];
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (push_q),
    .push_data_i({last_q, result}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_root_formal.svh"
`endif

endmodule

`default_nettype wire
