// What comes in goes out so many cycles later, every cycle; 0 is a wire. No handshake, no reset: a shift register.

`default_nettype none

module mase_delay #(
  parameter int Width = 8,
  parameter int Cycles = 2
) (
  input  wire logic             clk_i,
  input  wire logic [Width-1:0] data_i,
  output      logic [Width-1:0] data_o
);

  if (Cycles == 0) begin : gen_wire
    logic unused_clk;
    assign unused_clk = clk_i;
    assign data_o = data_i;
  end else begin : gen_line
    logic [Cycles*Width-1:0] line_q;  // the newest one lowest
    always_ff @(posedge clk_i) line_q <= (Cycles * Width)'({line_q, data_i});
    assign data_o = line_q[(Cycles-1)*Width +: Width];
  end

endmodule

`default_nettype wire
