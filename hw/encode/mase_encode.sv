// Exact integers become numbers of a sign, an exponent and a mantissa, lane by lane, without exponents of blocks.
//
//   y = nearest number to t / 2**Down, in units of the least number above 0        see mase_float_round
//   or, with Log, the power of two nearest in the logarithm                        see mase_log_round
//
// One beat of Lanes elements a cycle; latency 4. in_ready_o is the credit of the output FIFO, a register.

`default_nettype none

module mase_encode #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int InWidth = 16,
  parameter int ExpBits = 4,
  parameter int ManBits = 3,
  parameter int Top = 126,
  parameter bit Log = 1'b0,
  parameter int Down = 4,
  parameter int FifoDepth = 2,
  // Derived, do not override.
  parameter int Width = 1 + ExpBits + ManBits,
  parameter int InBits = Lanes * InWidth,
  parameter int OutBits = Lanes * Width
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

  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int DownWidth = $clog2(((Down < 0) ? -Down : Down) + 2) + 1;

  logic                 fire, credit, last;
  logic [BeatWidth-1:0] beat_q;
  logic [2:0]           valid_q, last_q;
  logic [OutBits-1:0]   result;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      valid_q <= '0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      valid_q <= {valid_q[1:0], fire};
    end
  end
  always_ff @(posedge clk_i) last_q <= {last_q[1:0], last};

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    if (Log) begin : gen_log
      mase_log_round #(
        .InWidth(InWidth), .DownWidth(DownWidth), .ExpBits(ExpBits), .Top(Top)
      ) u_round (
        .clk_i (clk_i),
        .in_i  (in_data_i[l*InWidth +: InWidth]),
        .down_i(DownWidth'(Down)),
        .out_o (result[l*Width +: Width])
      );
    end else begin : gen_float
      mase_float_round #(
        .InWidth(InWidth), .DownWidth(DownWidth), .ExpBits(ExpBits), .ManBits(ManBits), .Top(Top)
      ) u_round (
        .clk_i (clk_i),
        .in_i  (in_data_i[l*InWidth +: InWidth]),
        .down_i(DownWidth'(Down)),
        .out_o (result[l*Width +: Width])
      );
    end
  end

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q[2]),
    .push_data_i({last_q[2], result}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
