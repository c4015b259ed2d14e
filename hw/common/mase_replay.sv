// A row of beats, given as it comes and again from a buffer: data_o is the beat at addr_i, one cycle later.
//
// take_i: data_i is that beat, a new one; it is kept if Keep says that it will be asked for again. Otherwise it is the
// beat that was last kept at addr_i. The plain array with a registered read is block or distributed memory; no reset.

`default_nettype none

module mase_replay #(
  parameter int Width = 8,
  parameter int Depth = 2,
  parameter bit Keep = 1'b1,
  // Derived, do not override.
  parameter int AddrWidth = (Depth > 1) ? $clog2(Depth) : 1
) (
  input  wire logic                 clk_i,
  input  wire logic                 take_i,
  input  wire logic [AddrWidth-1:0] addr_i,
  input  wire logic [Width-1:0]     data_i,
  output      logic [Width-1:0]     data_o
);

  if (Keep) begin : gen_keep
    logic [Width-1:0] memory [Depth];
    logic [Width-1:0] stored_q, fresh_q;
    logic             fresh_sel_q;
    always_ff @(posedge clk_i) begin
      if (take_i) memory[addr_i] <= data_i;
      stored_q    <= memory[addr_i];
      fresh_q     <= data_i;
      fresh_sel_q <= take_i;
    end
    assign data_o = fresh_sel_q ? fresh_q : stored_q;
  end else begin : gen_straight
    logic unused;
    assign unused = &{1'b0, take_i, addr_i};
    always_ff @(posedge clk_i) data_o <= data_i;
  end

endmodule

`default_nettype wire
