  logic             f_move;
  logic [Width-1:0] f_data;
  assign f_move = push;
  assign f_data = in_data_i;
  `include "mase_stream_formal.svh"

  // What ties the registers to the counters, so that induction closes.
  logic [31:0] f_slot;
  assign f_slot = (32'(read_q) + 32'(f_place)) % Depth;
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (f_inside == 6'(count_q) && count_q <= Depth);
      assert (write_q < Depth && read_q < Depth);
      assert (32'(write_q) == (32'(read_q) + 32'(count_q)) % Depth);
      if (f_place < f_inside) assert (memory_q[f_slot[PointerWidth-1:0]] == f_followed);
      cover (f_left == 6'd3 && count_q == Depth);
    end
  end
