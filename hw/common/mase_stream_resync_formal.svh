  // Beats go on unchanged and in order, none twice, none invented but zeros; whatever lies between one `last` and the next
  // becomes one frame of Beats beats, damaged if and only if it had another number of beats or a bad one.
  // Frames are counted modulo 64. The source keeps an offer until it is taken, as a valid/ready stream must.
  logic f_running = 1'b0;
  always @(posedge clk_i) f_running <= 1'b1;
  initial assume (!rst_ni);
  always @(posedge clk_i) if (f_running) assume (rst_ni);

  logic f_taken;
  logic f_given;
  assign f_taken = in_valid_i && in_ready_o;
  assign f_given = out_valid_o && out_ready_i;

  logic [5:0] f_frames_in;
  logic [5:0] f_frames_out;
  logic [5:0] f_length;  // beats taken of the frame that now comes in, 63 for as many or more
  logic [5:0] f_position;  // beats given of the frame that now goes out
  logic f_bad;  // one of the beats taken was bad
  logic f_right;  // the frame that came in last was right
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_frames_in  <= '0;
      f_frames_out <= '0;
      f_length     <= '0;
      f_position   <= '0;
      f_bad        <= 1'b0;
      f_right      <= 1'b0;
    end else begin
      if (f_taken) begin
        f_frames_in <= f_frames_in + 6'(in_last_i);
        f_length    <= in_last_i ? '0 : (f_length == 6'd63) ? f_length : f_length + 6'd1;
        f_bad       <= !in_last_i && (f_bad || in_bad_i);
        if (in_last_i) f_right <= f_length == 6'(Beats - 1) && !f_bad && !in_bad_i;
      end
      if (f_given) begin
        f_frames_out <= f_frames_out + 6'(out_last_o);
        f_position   <= out_last_o ? '0 : f_position + 6'd1;
      end
    end
  end

  logic f_waiting = 1'b0;  // an offer of the source that was not taken
  logic f_stalled = 1'b0;  // an offer of ours that was not taken
  logic [Width+1:0] f_asked;
  logic [Width+1:0] f_offered;
  always @(posedge clk_i) begin
    f_waiting <= rst_ni && in_valid_i && !in_ready_o;
    f_stalled <= rst_ni && out_valid_o && !out_ready_i;
    f_asked   <= {in_bad_i, in_last_i, in_data_i};
    f_offered <= {out_damaged_o, out_last_o, out_data_o};
    if (rst_ni) begin
      if (f_waiting) assume (in_valid_i && {in_bad_i, in_last_i, in_data_i} == f_asked);
      if (f_stalled) assert (out_valid_o && {out_damaged_o, out_last_o, out_data_o} == f_offered);
      if (Resync == 0) begin
        assert (!filling_q && !dropping_q);
        assert (f_taken == f_given && !out_damaged_o);
        assert (!f_taken || (out_data_o == in_data_i && out_last_o == in_last_i));
      end else begin
        assert (!(filling_q && dropping_q));
        // A beat that is taken goes on in the same cycle, or is the rest of a frame that was too long.
        if (f_taken && !dropping_q) assert (f_given && out_data_o == in_data_i);
        if (f_taken && dropping_q) assert (!f_given && f_length >= 6'(Beats) && f_position == '0);
        if (f_given && !f_taken) assert (filling_q && out_data_o == '0 && f_length == '0);
        // Frames: as many as `last` came in, each of Beats beats.
        assert (f_position == 6'(beat_q) && beat_q < Beats && out_last_o == (f_position == 6'(Beats - 1)));
        assert (f_frames_out == f_frames_in - 6'(filling_q) + 6'(dropping_q));
        if (dropping_q) assert (f_length >= 6'(Beats) && beat_q == '0 && !bad_q);
        if (!dropping_q && !filling_q) assert (f_length == 6'(beat_q) && bad_q == f_bad);
        if (filling_q) assert (f_length == '0 && !f_bad && !f_right && beat_q != '0);
        // The mark: right if and only if this beat has `last` at the right place and no beat was bad.
        if (f_given && out_last_o) begin
          assert (out_damaged_o != (f_taken && in_last_i && !f_bad && !in_bad_i));
        end
        if (f_given && !out_last_o) assert (!out_damaged_o);
        cover (f_frames_out == 6'd3 && filling_q);
        cover (f_frames_out == 6'd3 && dropping_q);
        cover (f_frames_out == 6'd3 && f_given && out_last_o && !out_damaged_o);
      end
      // What says so to the outside.
      if (f_given && out_last_o && out_damaged_o && f_taken) assert (wrong || error_o);
      if (filling_q || dropping_q || bad_q) assert (error_o);
    end
  end
