// A sample in another order: two banks of Words words, one filled while the other is read by a nest of five loops.
//
// The loops run Count0 (outermost) to Count4 times; the address begins at Start and grows by Step<k> where loop k goes
// on and those inside it begin again (modulo the banks, so a step may go back). A word may be read any number of times.
// out_last_o marks the last word. A bank is read from the cycle after its last word came, and filled from the cycle
// after its last word was read. Latency from a read to out_valid_o: 2 (memory, FIFO); one word a cycle.
// in_ready_o and out_valid_o depend on registers only.

`default_nettype none

module mase_reorder #(
  parameter int Width = 8,
  parameter int Words = 2,
  parameter int Start = 0,
  parameter int Count0 = 1,
  parameter int Count1 = 1,
  parameter int Count2 = 1,
  parameter int Count3 = 1,
  parameter int Count4 = 2,
  parameter int Step0 = 0,
  parameter int Step1 = 0,
  parameter int Step2 = 0,
  parameter int Step3 = 0,
  parameter int Step4 = 1,
  parameter int FifoDepth = 3
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

  localparam int AddressWidth = $clog2(2 * Words);
  localparam int Width0 = (Count0 > 1) ? $clog2(Count0) : 1;
  localparam int Width1 = (Count1 > 1) ? $clog2(Count1) : 1;
  localparam int Width2 = (Count2 > 1) ? $clog2(Count2) : 1;
  localparam int Width3 = (Count3 > 1) ? $clog2(Count3) : 1;
  localparam int Width4 = (Count4 > 1) ? $clog2(Count4) : 1;

  logic [Width-1:0]        memory_q [2*Words];
  logic [Width-1:0]        word_q;
  logic [AddressWidth-1:0] write_q, read_q, step;
  logic                    fill_q, leave_q;  // the bank that is filled, the bank that is read
  logic [1:0]              full_q;
  logic [Width0-1:0]       count0_q;
  logic [Width1-1:0]       count1_q;
  logic [Width2-1:0]       count2_q;
  logic [Width3-1:0]       count3_q;
  logic [Width4-1:0]       count4_q;
  logic                    end0, end1, end2, end3, end4;  // of a loop and of all inside it
  logic                    push, fire, filled, credit, valid_q, last_q;

  assign in_ready_o = !full_q[fill_q];
  assign push       = in_valid_i && in_ready_o;
  assign filled     = push && write_q == (fill_q ? AddressWidth'(2 * Words - 1) : AddressWidth'(Words - 1));
  assign fire       = full_q[leave_q] && credit;

  assign end4       = count4_q == Width4'(Count4 - 1);
  assign end3       = end4 && count3_q == Width3'(Count3 - 1);
  assign end2       = end3 && count2_q == Width2'(Count2 - 1);
  assign end1       = end2 && count1_q == Width1'(Count1 - 1);
  assign end0       = end1 && count0_q == Width0'(Count0 - 1);

  always_comb begin
    if (!end4) step = AddressWidth'(Step4);
    else if (!end3) step = AddressWidth'(Step3);
    else if (!end2) step = AddressWidth'(Step2);
    else if (!end1) step = AddressWidth'(Step1);
    else step = AddressWidth'(Step0);
  end

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      write_q  <= '0;
      read_q   <= AddressWidth'(Start);
      fill_q   <= 1'b0;
      leave_q  <= 1'b0;
      full_q   <= '0;
      count0_q <= '0;
      count1_q <= '0;
      count2_q <= '0;
      count3_q <= '0;
      count4_q <= '0;
      valid_q  <= 1'b0;
    end else begin
      if (push) write_q <= (write_q == AddressWidth'(2 * Words - 1)) ? '0 : write_q + AddressWidth'(1);
      if (filled) begin
        fill_q         <= !fill_q;
        full_q[fill_q] <= 1'b1;
      end
      valid_q <= fire;
      if (fire) begin
        count4_q <= end4 ? '0 : count4_q + Width4'(1);
        if (end4) count3_q <= end3 ? '0 : count3_q + Width3'(1);
        if (end3) count2_q <= end2 ? '0 : count2_q + Width2'(1);
        if (end2) count1_q <= end1 ? '0 : count1_q + Width1'(1);
        if (end1) count0_q <= end0 ? '0 : count0_q + Width0'(1);
        read_q <= read_q + step;
        if (end0) begin
          read_q          <= leave_q ? AddressWidth'(Start) : AddressWidth'(Words + Start);
          leave_q         <= !leave_q;
          full_q[leave_q] <= 1'b0;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (push) memory_q[write_q] <= in_data_i;
    if (fire) word_q <= memory_q[read_q];
    last_q <= end0;
  end

  mase_credit_fifo #(.Width(Width + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (valid_q),
    .push_data_i({last_q, word_q}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

`ifdef FORMAL
  `include "mase_reorder_formal.svh"
`endif

endmodule

`default_nettype wire
