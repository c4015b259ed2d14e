  // Each beat of either side leaves once, unchanged, in the order of its side and marked with it; packets leave whole; a
  // side that waits is passed over by one packet at most; a cycle in which a side may send is not lost. Order and stability
  // behind that are those of the FIFO, whose own properties hold here too and which follows the beat at the same place.
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_entered ;
  (* hierconn *) wire [Width+1:0] \u_fifo.u_fifo.f_followed ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  logic f_take_a;
  logic f_take_b;
  logic [5:0] f_taken;
  logic [5:0] f_left;
  logic [Width+1:0] f_own;
  logic f_open_a;  // a packet of a is on its way
  logic f_open_b;
  logic [1:0] f_passed_a;  // packets of b that began while a waited
  logic [1:0] f_passed_b;
  assign f_take_a = a_valid_i && a_ready_o;
  assign f_take_b = b_valid_i && b_ready_o;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_taken    <= '0;
      f_left     <= '0;
      f_open_a   <= 1'b0;
      f_open_b   <= 1'b0;
      f_passed_a <= '0;
      f_passed_b <= '0;
    end else begin
      if (f_take_a || f_take_b) begin
        f_taken <= f_taken + 6'd1;
        if (f_taken == \u_fifo.u_fifo.f_index )
          f_own <= f_take_b ? {b_last_i, 1'b1, b_data_i} : {a_last_i, 1'b0, a_data_i};
      end
      if (f_take_a) f_open_a <= !a_last_i;
      if (f_take_b) f_open_b <= !b_last_i;
      if (f_take_a || !a_valid_i) f_passed_a <= '0;
      else if (f_take_b && !f_open_b) f_passed_a <= f_passed_a + 2'd1;
      if (f_take_b || !b_valid_i) f_passed_b <= '0;
      else if (f_take_a && !f_open_a) f_passed_b <= f_passed_b + 2'd1;
      if (out_valid_o && out_ready_i) f_left <= f_left + 6'd1;
    end
  end

  logic [5:0] f_inside;
  assign f_inside = f_taken - f_left;
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (!(f_take_a && f_take_b) && fire == (f_take_a || f_take_b));
      assert (!(f_open_a && f_open_b) && open_q == (f_open_a || f_open_b));
      assert (!f_open_a || !side_q);
      assert (!f_open_b || side_q);
      if (f_take_a) assert (!f_open_b);  // packets are whole
      if (f_take_b) assert (!f_open_a);
      assert (f_passed_a <= 2'd1 && f_passed_b <= 2'd1);
      if (f_passed_a != '0) assert (side_q);  // its turn comes next
      if (f_passed_b != '0) assert (!side_q);
      if (f_inside != FifoDepth) begin  // no cycle is lost
        if (a_valid_i && !f_open_b) assert (f_take_a || f_take_b);
        if (b_valid_i && !f_open_a) assert (f_take_a || f_take_b);
      end
      assert (f_taken == \u_fifo.u_fifo.f_entered && f_inside == 6'(\u_fifo.u_fifo.count_q ));
      assert (32'(\u_fifo.free_q ) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      if (\u_fifo.u_fifo.f_index - f_left < f_inside) assert (\u_fifo.u_fifo.f_followed == f_own);
      // What the outside sees.
      assert (out_valid_o == (f_inside != '0));
      if (out_valid_o && f_left == \u_fifo.u_fifo.f_index ) assert ({out_last_o, out_side_o, out_data_o} == f_own);
      cover (f_passed_a == 2'd1 && f_open_b && f_left == 6'd3);
    end
  end
