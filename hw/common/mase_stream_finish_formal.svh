  // Packets have Beats beats, also around a flush; what is taken goes on in the same cycle, unchanged, and marked beats that
  // nobody sent appear only behind a flush, until the packet ends. The source may withdraw its offer at a flush.
  logic f_running = 1'b0;
  always @(posedge clk_i) f_running <= 1'b1;
  initial assume (!rst_ni);
  always @(posedge clk_i) if (f_running) assume (rst_ni);

  logic f_taken;
  logic f_given;
  assign f_taken = in_valid_i && in_ready_o;
  assign f_given = out_valid_o && out_ready_i;

  logic [5:0] f_position;  // beats given of the packet that now goes out
  logic f_cut;  // it began before a flush
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_position <= '0;
      f_cut      <= 1'b0;
    end else begin
      if (f_given) f_position <= (f_position == 6'(Beats - 1)) ? '0 : f_position + 6'd1;
      if (f_given && f_position == 6'(Beats - 1)) f_cut <= 1'b0;
      else f_cut <= f_cut || (flush_i && (f_position != '0 || f_given));
    end
  end

  logic f_waiting = 1'b0;
  logic f_stalled = 1'b0;
  logic [Width:0] f_asked;
  logic [Width+1:0] f_offered;
  always @(posedge clk_i) begin
    f_waiting <= rst_ni && !flush_i && in_valid_i && !in_ready_o;
    f_stalled <= rst_ni && (!flush_i || filling_q) && out_valid_o && !out_ready_i;
    f_asked   <= {in_marked_i, in_data_i};
    f_offered <= {out_marked_o, out_last_o, out_data_o};
    if (rst_ni) begin
      if (f_waiting) assume (in_valid_i && {in_marked_i, in_data_i} == f_asked);
      if (f_stalled) assert (out_valid_o && {out_marked_o, out_last_o, out_data_o} == f_offered);
      assert (f_position == 6'(beat_q) && beat_q < Beats);
      assert (out_last_o == (f_position == 6'(Beats - 1)));
      assert (filling_q == f_cut && !(f_cut && f_position == '0));
      if (f_taken) assert (f_given && out_data_o == in_data_i && out_marked_o == (in_marked_i && out_last_o));
      if (f_given && !f_taken) assert (f_cut && out_data_o == '0 && out_marked_o == out_last_o);
      if (f_cut) assert (out_valid_o && !in_ready_o);  // it ends as fast as the sink takes it
      if (Beats == 1) assert (!f_cut);
      cover (f_taken && out_last_o);
      if (Beats > 1) cover (f_given && f_cut && out_last_o);
    end
  end
