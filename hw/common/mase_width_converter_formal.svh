  // Each unit that counts leaves once, in order and in its lane; what is above a row's tail is zero; `last` marks the
  // last beat of Rows rows; every pushed beat fits the FIFO, whose own properties hold here too.
  // The unit at a freely chosen place f_index is followed; places count modulo 256.
  localparam int SampleBeats = OutBeats * Rows;
  (* anyconst *) logic [7:0] f_index;
  logic [7:0] f_entered;
  logic [7:0] f_left;
  logic [7:0] f_place;  // how many of the units held leave before the followed one
  logic [7:0] f_added;
  logic [7:0] f_lane;
  logic [7:0] f_beat_start;  // place of the first unit in beat_q
  logic [7:0] f_beat_lane;
  logic [7:0] f_beat_units;
  logic [UnitWidth-1:0] f_followed;
  logic [31:0] f_beat;  // output beats of this sample
  logic [31:0] f_row;  // units taken since the output row began
  logic f_last;
  assign f_place     = f_index - f_left;
  assign f_lane      = f_index - f_entered;
  assign f_beat_lane = f_index - f_beat_start;
  assign f_added     = !consume ? 8'd0 : in_row_end ? 8'(InTail) : 8'(InUnits);
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_entered <= '0;
      f_left    <= '0;
      f_beat    <= '0;
      f_row     <= '0;
    end else if (fire) begin
      f_entered <= f_entered + f_added;
      if (f_lane < f_added) f_followed <= in_data_i[f_lane*UnitWidth+:UnitWidth];
      f_row <= (produce && out_row_end) ? '0 : f_row + 32'(f_added);
      if (produce) begin
        f_left       <= f_left + ((DropTail != 0 && out_row_end) ? 8'(held) : 8'(needed));
        f_beat_start <= f_left;
        f_beat_units <= 8'(needed);
        f_beat       <= (f_beat == SampleBeats - 1) ? '0 : f_beat + 1;
        f_last       <= f_beat == SampleBeats - 1;
      end
    end
  end

  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (count_q <= Kept && 8'(count_q) == f_entered - f_left);
      assert (in_beat_q < InBeats && out_beat_q < OutBeats && row_q < Rows);
      assert (32'(row_q) * OutBeats + 32'(out_beat_q) == f_beat);
      if (f_place < 8'(count_q)) assert (buffer_q[f_place*UnitWidth+:UnitWidth] == f_followed);
      if (push_q) begin
        assert (last_q == f_last);
        assert (f_beat_units != 8'd0 && f_beat_units <= OutUnits);
        if (f_beat_lane < f_beat_units) assert (beat_q[f_beat_lane*UnitWidth+:UnitWidth] == f_followed);
        assert ((beat_q >> (f_beat_units * UnitWidth)) == '0);
      end
      assert (32'(\u_fifo.free_q ) + 32'(push_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      assert (fire || !in_valid_i || !credit);  // nothing else holds it up
      if (DropTail != 0) begin  // both rows begin and end together
        assert (32'(count_q) + 32'(out_beat_q) * OutUnits == f_row);
        assert (f_row == 32'(in_beat_q) * InUnits || (in_beat_q == '0 && f_row == (InBeats - 1) * InUnits + InTail));
        assert (f_row != 32'd0 || out_beat_q == '0);
        if (fire && produce && out_row_end) assert (consume ? in_row_end : in_beat_q == '0);
      end
      cover (out_valid_o && out_ready_i && out_last_o);
    end
  end
