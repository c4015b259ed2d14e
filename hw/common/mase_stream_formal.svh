  // What every block promises that moves beats: each accepted beat leaves once, unchanged and in order, and an offered
  // beat stays until it is taken. Read by SymbiYosys only, inside the block, which defines before:
  //   f_move      a beat enters in this cycle        f_data   its data, Width bits
  // The beat at a freely chosen place f_index is followed; places count modulo 64, more than any block here holds.
  // Immediate assertions with hand-made past values, because the front end has no concurrent ones.
  logic f_running = 1'b0;
  always @(posedge clk_i) f_running <= 1'b1;
  initial assume (!rst_ni);
  always @(posedge clk_i) if (f_running) assume (rst_ni);

  (* anyconst *) logic [5:0] f_index;
  logic [5:0] f_entered;
  logic [5:0] f_left;
  logic [5:0] f_inside;  // beats inside the block
  logic [5:0] f_place;  // how many of them leave before the followed one
  logic [Width-1:0] f_followed;
  assign f_inside = f_entered - f_left;
  assign f_place  = f_index - f_left;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_entered <= '0;
      f_left    <= '0;
    end else begin
      if (f_move) f_entered <= f_entered + 6'd1;
      if (f_move && f_entered == f_index) f_followed <= f_data;
      if (out_valid_o && out_ready_i) f_left <= f_left + 6'd1;
    end
  end

  logic f_stalled = 1'b0;
  logic [Width-1:0] f_offered;
  always @(posedge clk_i) begin
    f_stalled <= rst_ni && out_valid_o && !out_ready_i;
    f_offered <= out_data_o;
    if (rst_ni) begin
      if (f_stalled) assert (out_valid_o && out_data_o == f_offered);
      if (out_valid_o) assert (f_inside != 6'd0);
      if (out_valid_o && f_place == 6'd0) assert (out_data_o == f_followed);
    end
  end
