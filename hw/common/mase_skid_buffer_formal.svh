  logic             f_move;
  logic [Width-1:0] f_data;
  assign f_move = in_valid_i && in_ready_o;
  assign f_data = in_data_i;
  `include "mase_stream_formal.svh"

  // What ties the registers to the counters, so that induction closes.
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (f_inside == 6'(out_valid_o) + 6'(!in_ready_o));
      if (!in_ready_o) assert (out_valid_o);
      if (f_inside == 6'd2 && f_place == 6'd1) assert (skid_q == f_followed);
      cover (f_left == 6'd3 && f_inside == 6'd2);
    end
  end
