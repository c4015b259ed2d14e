// A ROM behind a counter, beside a comparison that is slower than it: as in a design, it may be mapped for area.

`default_nettype none

module frame_rom #(
  parameter int Width = 8,
  parameter int Depth = 2,
  parameter File = ""
) (
  input  wire logic              clk_i,
  input  wire logic              rst_ni,
  input  wire logic              step_i,
  input  wire logic [31:0]       a_i,
  input  wire logic [31:0]       b_i,
  output      logic [Width-1:0]  data_o,
  output      logic [31:0]       slow_o
);

  localparam int AddrWidth = (Depth > 1) ? $clog2(Depth) : 1;
  logic [AddrWidth-1:0] addr_q;
  logic [31:0]          sum_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) addr_q <= '0;
    else if (step_i) addr_q <= (addr_q == AddrWidth'(Depth - 1)) ? '0 : addr_q + AddrWidth'(1);
  end

  always_ff @(posedge clk_i) begin
    sum_q  <= a_i + b_i;
    slow_o <= ($signed(sum_q) < $signed(a_i)) ? sum_q : b_i;
  end

  mase_rom #(.Width(Width), .Depth(Depth), .File(File)) u_rom (
    .clk_i (clk_i),
    .addr_i(addr_q),
    .data_o(data_o)
  );

endmodule

`default_nettype wire
