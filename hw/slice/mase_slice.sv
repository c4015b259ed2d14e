// Some positions of an axis: of each Size positions those at First, First + Step, ..., Count of them.
//
// An axis stands Outer times in a sample, and each of its positions has Inner beats. Beats that count pass unchanged,
// the others are taken and dropped, one a cycle. out_last_o marks the last beat of a sample.
// Latency 1 (the FIFO); one beat a cycle from depth 2 on. in_ready_o and out_valid_o depend on registers only.

`default_nettype none

module mase_slice #(
  parameter int Width = 8,
  parameter int Outer = 1,
  parameter int Size = 1,
  parameter int Inner = 1,
  parameter int First = 0,
  parameter int Step = 1,
  parameter int Count = 1,
  parameter int FifoDepth = 2
) (
  input  wire logic             clk_i,
  input  wire logic             rst_ni,

  input  wire logic             in_valid_i,
  output      logic             in_ready_o,
  input  wire logic [Width-1:0] in_data_i,

  output      logic             out_valid_o,
  input  wire logic             out_ready_i,
  output      logic [Width-1:0] out_data_o,
  output      logic             out_last_o
);

  localparam int InnerWidth = (Inner > 1) ? $clog2(Inner) : 1;
  localparam int SizeWidth = $clog2(Size + 1);
  localparam int OuterWidth = (Outer > 1) ? $clog2(Outer) : 1;

  logic [InnerWidth-1:0] inner_q;
  logic [SizeWidth-1:0]  place_q;
  logic [SizeWidth-1:0]  next_q;  // the next place that counts
  logic [SizeWidth-1:0]  kept_q;  // places of this axis that counted
  logic [OuterWidth-1:0] outer_q;
  logic                  credit, fire, keep, inner_end, place_end, outer_end, last;

  assign keep       = place_q == next_q && kept_q != SizeWidth'(Count);
  assign in_ready_o = credit || !keep;
  assign fire       = in_valid_i && in_ready_o;
  assign inner_end  = inner_q == InnerWidth'(Inner - 1);
  assign place_end  = place_q == SizeWidth'(Size - 1);
  assign outer_end  = outer_q == OuterWidth'(Outer - 1);
  assign last       = inner_end && kept_q == SizeWidth'(Count - 1) && outer_end;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      inner_q <= '0;
      place_q <= '0;
      next_q  <= SizeWidth'(First);
      kept_q  <= '0;
      outer_q <= '0;
    end else if (fire) begin
      inner_q <= inner_end ? '0 : inner_q + InnerWidth'(1);
      if (inner_end) begin
        place_q <= place_end ? '0 : place_q + SizeWidth'(1);
        if (place_end) begin
          next_q  <= SizeWidth'(First);
          kept_q  <= '0;
          outer_q <= outer_end ? '0 : outer_q + OuterWidth'(1);
        end else if (keep) begin
          next_q <= next_q + SizeWidth'(Step);
          kept_q <= kept_q + SizeWidth'(1);
        end
      end
    end
  end

  mase_credit_fifo #(.Width(Width + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire && keep),
    .credit_o   (credit),
    .push_i     (fire && keep),
    .push_data_i({last, in_data_i}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_slice_formal.svh"
`endif

endmodule

`default_nettype wire
