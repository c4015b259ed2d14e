// Read-only memory of Depth words: data_o = word[addr_i], one cycle later, every cycle (no enable, no reset).
//
// File is a memory image for $readmemh: one hexadecimal word a line, word 0 first, Depth lines; a relative path starts
// at the folder in which the simulator or the synthesizer runs. A simulation whose File is missing or too short ends at
// time 0 with a fatal error: no run can go on with words that were never read.
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

`ifdef SYNTHESIS
  initial begin
    if (File != "") $readmemh(File, memory);
  end
`else
  // The last word changes under one of two contents before the read, or the read did not reach it.
  initial begin
    memory[Depth-1] = '0;
    if (File != "") $readmemh(File, memory);
    if (memory[Depth-1] === '0) begin
      memory[Depth-1] = '1;
      if (File != "") $readmemh(File, memory);
      if (memory[Depth-1] === '1) $fatal(1, "%m: %s: not read, or fewer than %0d words", File, Depth);
    end
  end
`endif

  always_ff @(posedge clk_i) data_o <= memory[addr_i];

endmodule

`default_nettype wire
