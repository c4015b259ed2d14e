// Pipelined sum of Count signed numbers, free running: a new set of numbers may enter every cycle.
//
//   sum_o = sum over i of signed(data_i[i])
//
// Exact modulo 2**OutWidth; level k is Width + k bits wide, at most OutWidth. Latency is
// ceil(log2(Count)) cycles, one level of adders each; Count = 1 is a wire. No handshake, no reset.

`default_nettype none

module mase_adder_tree #(
  parameter int Count = 4,
  parameter int Width = 8,
  parameter int OutWidth = 10
) (
  input  wire logic                   clk_i,
  input  wire logic [Count*Width-1:0] data_i,
  output      logic [OutWidth-1:0]    sum_o
);

  localparam int Levels = $clog2(Count);

  for (genvar k = 0; k <= Levels; k++) begin : gen_level
    localparam int Nodes = (Count + (1 << k) - 1) >> k;
    localparam int Below = (2 * Count + (1 << k) - 1) >> k;
    localparam int W = (Width + k < OutWidth) ? Width + k : OutWidth;
    for (genvar i = 0; i < Nodes; i++) begin : gen_node
      logic [W-1:0] sum;
      if (k == 0) begin : gen_leaf
        assign sum = W'($signed(data_i[i*Width +: Width]));
      end else if (2 * i + 1 < Below) begin : gen_add
        always_ff @(posedge clk_i) begin
          sum <= W'($signed(gen_level[k-1].gen_node[2*i].sum))
               + W'($signed(gen_level[k-1].gen_node[2*i+1].sum));
        end
      end else begin : gen_pass
        always_ff @(posedge clk_i) sum <= W'($signed(gen_level[k-1].gen_node[2*i].sum));
      end
    end
  end

  assign sum_o = OutWidth'($signed(gen_level[Levels].gen_node[0].sum));

  if (Levels == 0) begin : gen_wire
    logic unused_clk;
    assign unused_clk = clk_i;
  end

endmodule

`default_nettype wire
