  // Beats at the positions that count leave once, unchanged and in order; all others are taken and leave nothing; `last`
  // marks the last one of Outer axes; a beat is refused only if it counts and the FIFO is full. Order and stability behind
  // that are those of the FIFO, whose own properties hold here too and which follows the beat at the same chosen place.
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_entered ;
  (* hierconn *) wire [Width:0] \u_fifo.u_fifo.f_followed ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  logic [7:0] f_beat;  // of this sample, counted without the block's loops
  logic [7:0] f_position;
  logic [7:0] f_past;  // positions since the first that counts
  logic [7:0] f_before;  // positions of this axis that count and lie before this one
  logic [5:0] f_kept;
  logic [5:0] f_left;
  logic [Width:0] f_own;
  logic f_counts;
  logic f_last;
  assign f_position = (f_beat / 8'(Inner)) % 8'(Size);
  assign f_past     = f_position - 8'(First);
  assign f_counts   = f_position >= First && f_past % 8'(Step) == 8'd0 && f_past / 8'(Step) < Count;
  assign f_before   = (f_position <= First) ? 8'd0
                    : ((f_past - 8'd1) / 8'(Step) < Count) ? (f_past - 8'd1) / 8'(Step) + 8'd1 : 8'(Count);
  assign f_last     = f_beat == 8'(((Outer - 1) * Size + First + (Count - 1) * Step) * Inner + Inner - 1);
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_beat <= '0;
      f_kept <= '0;
      f_left <= '0;
    end else begin
      if (in_valid_i && in_ready_o) begin
        f_beat <= (f_beat == 8'(Outer * Size * Inner - 1)) ? '0 : f_beat + 8'd1;
        if (f_counts) f_kept <= f_kept + 6'd1;
        if (f_counts && f_kept == \u_fifo.u_fifo.f_index ) f_own <= {f_last, in_data_i};
      end
      if (out_valid_o && out_ready_i) f_left <= f_left + 6'd1;
    end
  end

  logic [5:0] f_inside;
  assign f_inside = f_kept - f_left;
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (f_beat < Outer * Size * Inner);
      assert (8'(inner_q) == f_beat % 8'(Inner) && 8'(place_q) == f_position);
      assert (8'(outer_q) == f_beat / 8'(Inner * Size) && 8'(kept_q) == f_before);
      if (f_before != Count) assert (8'(next_q) == 8'(First) + f_before * 8'(Step));
      assert (f_kept == \u_fifo.u_fifo.f_entered && f_inside == 6'(\u_fifo.u_fifo.count_q ));
      assert (32'(\u_fifo.free_q ) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      if (\u_fifo.u_fifo.f_index - f_left < f_inside) assert (\u_fifo.u_fifo.f_followed == f_own);
      // What the outside sees.
      assert (in_ready_o == (!f_counts || f_inside != FifoDepth));
      assert (out_valid_o == (f_inside != '0));
      if (out_valid_o && f_left == \u_fifo.u_fifo.f_index ) assert ({out_last_o, out_data_o} == f_own);
      cover (out_valid_o && out_ready_i && out_last_o && f_left > 6'(Outer * Count * Inner));
    end
  end
