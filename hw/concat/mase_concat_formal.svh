  // Beats of both sides leave once, unchanged and in turn: BeatsA of a, then BeatsB of b; `last` marks the last one of Outer
  // turns; a beat is taken exactly when it is its side's turn and the FIFO has room. Order and stability behind that are
  // those of the FIFO, whose own properties hold here too and which follows the beat at the same freely chosen place.
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_entered ;
  (* hierconn *) wire [Width:0] \u_fifo.u_fifo.f_followed ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  logic [5:0] f_taken;
  logic [5:0] f_left;
  logic [31:0] f_place;  // of this turn
  logic [31:0] f_turn;
  logic [Width:0] f_own;
  logic f_side;
  logic f_last;
  assign f_side = f_place >= BeatsA;
  assign f_last = f_place == BeatsA + BeatsB - 1 && f_turn == Outer - 1;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_taken <= '0;
      f_left  <= '0;
      f_place <= '0;
      f_turn  <= '0;
    end else begin
      if ((a_valid_i && a_ready_o) || (b_valid_i && b_ready_o)) begin
        f_taken <= f_taken + 6'd1;
        f_place <= (f_place == BeatsA + BeatsB - 1) ? '0 : f_place + 1;
        if (f_place == BeatsA + BeatsB - 1) f_turn <= (f_turn == Outer - 1) ? '0 : f_turn + 1;
        if (f_taken == \u_fifo.u_fifo.f_index ) f_own <= {f_last, f_side ? b_data_i : a_data_i};
      end
      if (out_valid_o && out_ready_i) f_left <= f_left + 6'd1;
    end
  end

  logic [5:0] f_inside;
  assign f_inside = f_taken - f_left;
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (f_place < BeatsA + BeatsB && f_turn < Outer);
      assert (side_q == f_side && 32'(outer_q) == f_turn);
      assert (32'(beat_q) == (f_side ? f_place - BeatsA : f_place));
      assert (f_taken == \u_fifo.u_fifo.f_entered && f_inside == 6'(\u_fifo.u_fifo.count_q ));
      assert (32'(\u_fifo.free_q ) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      if (\u_fifo.u_fifo.f_index - f_left < f_inside) assert (\u_fifo.u_fifo.f_followed == f_own);
      // What the outside sees.
      assert (a_ready_o == (!f_side && f_inside != FifoDepth) && b_ready_o == (f_side && f_inside != FifoDepth));
      assert (out_valid_o == (f_inside != '0));
      if (out_valid_o && f_left == \u_fifo.u_fifo.f_index ) assert ({out_last_o, out_data_o} == f_own);
      cover (out_valid_o && out_ready_i && out_last_o && f_left > 6'(BeatsA + BeatsB));
    end
  end
