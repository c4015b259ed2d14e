// Pipelined maximum of Count signed numbers, free running: a new set of numbers may enter every cycle.
//
//   max_o = max over i of signed(data_i[i])
//
// Latency is ceil(log2(Count)) cycles, one level of comparisons each; Count = 1 is a wire. No handshake, no reset.

`default_nettype none

module mase_max_tree #(
  parameter int Count = 4,
  parameter int Width = 8
) (
  input  wire logic                   clk_i,
  input  wire logic [Count*Width-1:0] data_i,
  output      logic [Width-1:0]       max_o
);

  localparam int Levels = $clog2(Count);

  for (genvar k = 0; k <= Levels; k++) begin : gen_level
    localparam int Nodes = (Count + (1 << k) - 1) >> k;
    localparam int Below = (2 * Count + (1 << k) - 1) >> k;
    for (genvar i = 0; i < Nodes; i++) begin : gen_node
      logic signed [Width-1:0] most;
      if (k == 0) begin : gen_leaf
        assign most = data_i[i*Width +: Width];
      end else if (2 * i + 1 < Below) begin : gen_most
        logic signed [Width-1:0] a, b;
        assign a = gen_level[k-1].gen_node[2*i].most;
        assign b = gen_level[k-1].gen_node[2*i+1].most;
        always_ff @(posedge clk_i) most <= (b > a) ? b : a;
      end else begin : gen_pass
        always_ff @(posedge clk_i) most <= gen_level[k-1].gen_node[2*i].most;
      end
    end
  end

  assign max_o = gen_level[Levels].gen_node[0].most;

  if (Levels == 0) begin : gen_wire
    logic unused_clk;
    assign unused_clk = clk_i;
  end

endmodule

`default_nettype wire
