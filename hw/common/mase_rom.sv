// Read-only memory of Depth words: data_o = word[addr_i], one cycle later, every cycle (no enable, no reset).
//
// File is a memory image for $readmemh: one hexadecimal word a line, word 0 first, Depth lines; a relative path starts
// at the folder in which the simulator or the synthesizer runs. An empty File leaves the words undefined.
// The plain array with a registered read is what Yosys and the vendor tools turn into block or distributed memory.

`default_nettype none

module mase_rom #(
  parameter int Width = 8,
  parameter int Depth = 2,
  parameter File = "",
  // Derived, do not override.
  parameter int AddrWidth = (Depth > 1) ? $clog2(Depth) : 1
) (
  input  wire logic                 clk_i,
  input  wire logic [AddrWidth-1:0] addr_i,
  output      logic [Width-1:0]     data_o
);

  logic [Width-1:0] memory [Depth];

  initial begin
    if (File != "") $readmemh(File, memory);
  end

  always_ff @(posedge clk_i) data_o <= memory[addr_i];

endmodule

`default_nettype wire
