  // Each beat that is taken leaves once by each output, unchanged and in order, `last` on every Beats-th; an offer stays
  // until it is taken; a beat is refused only while one of the FIFOs is full. Order and stability of each side are those
  // of its FIFO, whose own properties hold here too. Both follow the beat at the same freely chosen place, as here.
  (* hierconn *) wire [5:0] \u_a.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_b.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_a.u_fifo.f_entered ;
  (* hierconn *) wire [5:0] \u_b.u_fifo.f_entered ;
  (* hierconn *) wire [Width:0] \u_a.u_fifo.f_followed ;
  (* hierconn *) wire [Width:0] \u_b.u_fifo.f_followed ;
  (* hierconn *) wire [$clog2(DepthA+1)-1:0] \u_a.free_q ;
  (* hierconn *) wire [$clog2(DepthB+1)-1:0] \u_b.free_q ;
  (* hierconn *) wire [$clog2(DepthA+1)-1:0] \u_a.u_fifo.count_q ;
  (* hierconn *) wire [$clog2(DepthB+1)-1:0] \u_b.u_fifo.count_q ;

  logic [5:0] f_taken;  // beats that entered, modulo 64
  logic [5:0] f_left_a;
  logic [5:0] f_left_b;
  logic [31:0] f_beat;  // of this sample
  logic [Width:0] f_beat_followed;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_taken  <= '0;
      f_left_a <= '0;
      f_left_b <= '0;
      f_beat   <= '0;
    end else begin
      if (in_valid_i && in_ready_o) begin
        f_taken <= f_taken + 6'd1;
        f_beat  <= (f_beat == Beats - 1) ? '0 : f_beat + 1;
        if (f_taken == \u_a.u_fifo.f_index ) f_beat_followed <= {f_beat == Beats - 1, in_data_i};
      end
      if (a_valid_o && a_ready_i) f_left_a <= f_left_a + 6'd1;
      if (b_valid_o && b_ready_i) f_left_b <= f_left_b + 6'd1;
    end
  end

  logic [5:0] f_inside_a;
  logic [5:0] f_inside_b;
  assign f_inside_a = f_taken - f_left_a;
  assign f_inside_b = f_taken - f_left_b;
  always @(posedge clk_i) begin
    assume (\u_a.u_fifo.f_index == \u_b.u_fifo.f_index );
    if (rst_ni) begin
      assert (f_taken == \u_a.u_fifo.f_entered && f_taken == \u_b.u_fifo.f_entered );
      assert (f_inside_a == 6'(\u_a.u_fifo.count_q ) && f_inside_b == 6'(\u_b.u_fifo.count_q ));
      assert (32'(\u_a.free_q ) + 32'(\u_a.u_fifo.count_q ) == DepthA);
      assert (32'(\u_b.free_q ) + 32'(\u_b.u_fifo.count_q ) == DepthB);
      assert (f_beat == 32'(beat_q) && beat_q < Beats);
      if (\u_a.u_fifo.f_index - f_left_a < f_inside_a) assert (\u_a.u_fifo.f_followed == f_beat_followed);
      if (\u_b.u_fifo.f_index - f_left_b < f_inside_b) assert (\u_b.u_fifo.f_followed == f_beat_followed);
      // What the outside sees.
      assert (a_valid_o == (f_inside_a != '0) && b_valid_o == (f_inside_b != '0));
      if (a_valid_o && f_left_a == \u_a.u_fifo.f_index ) assert ({a_last_o, a_data_o} == f_beat_followed);
      if (b_valid_o && f_left_b == \u_b.u_fifo.f_index ) assert ({b_last_o, b_data_o} == f_beat_followed);
      assert (in_ready_o == (f_inside_a != DepthA && f_inside_b != DepthB));
      cover (f_inside_a == '0 && f_inside_b == DepthB && b_last_o);
    end
  end
