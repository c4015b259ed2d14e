  // Beats of the image leave once, unchanged and in order, each at its place in the frame; all other places have the beat of
  // the border, exact to the bit in the lanes that count and 0 above; `last` marks the last beat of a frame; nothing waits
  // but the first beat of a frame, for an image. Order and stability behind that are those of the FIFO, whose own properties
  // hold here too and which follows the beat at the same freely chosen place.
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_index ;
  (* hierconn *) wire [5:0] \u_fifo.u_fifo.f_entered ;
  (* hierconn *) wire [Bits:0] \u_fifo.u_fifo.f_followed ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  logic [7:0] f_beat;  // of this frame, counted without the block's loops
  logic [7:0] f_row;
  logic [7:0] f_col;
  logic [7:0] f_part;  // beat of its pixel
  logic [7:0] f_took;  // beats of this image that are taken
  logic [5:0] f_fired;
  logic [5:0] f_left;
  logic [Bits:0] f_own;
  logic [Bits-1:0] f_border;
  logic f_image;
  logic f_fire;
  assign f_part  = f_beat % 8'(Beats);
  assign f_col   = f_beat / 8'(Beats) % 8'(OutWidth);
  assign f_row   = f_beat / 8'(Beats * OutWidth);
  assign f_image = f_row >= Top && f_row < Top + Height && f_col >= Left && f_col < Left + Width;
  assign f_fire  = credit && (f_image ? in_valid_i : (f_beat != '0 || in_valid_i));
  for (genvar f_lane = 0; f_lane < Lanes; f_lane++) begin : gen_formal_lane
    localparam int Block0 = Lanes * CodeWidth + (f_lane / Block) * ExpBits;  // where its exponent lies
    logic f_used;
    assign f_used = f_part * 8'(Lanes) + 8'(f_lane) < 8'((Beats - 1) * Lanes + Tail);  // lane of a channel
    assign f_border[f_lane*CodeWidth+:CodeWidth] = f_used ? CodeWidth'(Mantissa) : '0;
    if (ExpBits != 0 && f_lane % Block == 0) assign f_border[Block0+:ExpBits] = f_used ? ExpBits'(Exponent) : '0;
  end
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_beat  <= '0;
      f_took  <= '0;
      f_fired <= '0;
      f_left  <= '0;
    end else begin
      if (f_fire) begin
        f_beat  <= (f_beat == 8'(Beats * OutHeight * OutWidth - 1)) ? '0 : f_beat + 8'd1;
        f_fired <= f_fired + 6'd1;
        if (f_fired == \u_fifo.u_fifo.f_index )
          f_own <= {f_beat == 8'(Beats * OutHeight * OutWidth - 1), f_image ? in_data_i : f_border};
      end
      if (in_valid_i && in_ready_o) f_took <= (f_took == 8'(Beats * Height * Width - 1)) ? '0 : f_took + 8'd1;
      if (out_valid_o && out_ready_i) f_left <= f_left + 6'd1;
    end
  end

  logic [5:0] f_inside;
  logic [7:0] f_above;  // whole rows of the image that lie before this beat
  logic [7:0] f_beside;  // whole pixels of its row that do
  logic [7:0] f_due;
  assign f_inside = f_fired - f_left;
  assign f_above  = (f_row < Top) ? 8'd0 : (f_row < Top + Height) ? f_row - 8'(Top) : 8'(Height);
  assign f_beside = (f_row < Top || f_row >= Top + Height || f_col < Left) ? 8'd0
                  : (f_col < Left + Width) ? f_col - 8'(Left) : 8'(Width);
  assign f_due    = (f_above * 8'(Width) + f_beside) * 8'(Beats) + (f_image ? f_part : 8'd0);
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (f_beat < Beats * OutHeight * OutWidth && f_took < Beats * Height * Width);
      assert (8'(row_q) == f_row && 8'(col_q) == f_col && 8'(beat_q) == f_part);
      assert (fire == f_fire && (in_valid_i && in_ready_o) == (f_fire && f_image));
      assert (f_took == f_due || (f_took == '0 && f_due == 8'(Beats * Height * Width)));
      assert (f_fired == \u_fifo.u_fifo.f_entered + 6'(push_q) && f_inside == 6'(\u_fifo.u_fifo.count_q ) + 6'(push_q));
      assert (32'(\u_fifo.free_q ) + 32'(push_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      if (push_q && \u_fifo.u_fifo.f_entered == \u_fifo.u_fifo.f_index ) assert ({last_q, beat_data_q} == f_own);
      if (\u_fifo.u_fifo.f_index - f_left < 6'(\u_fifo.u_fifo.count_q )) assert (\u_fifo.u_fifo.f_followed == f_own);
      // What the outside sees.
      assert (in_ready_o == (f_image && f_inside != FifoDepth));
      if (out_valid_o && f_left == \u_fifo.u_fifo.f_index ) assert ({out_last_o, out_data_o} == f_own);
      cover (out_valid_o && out_ready_i && out_last_o && f_left > 6'(Beats * OutHeight * OutWidth));
    end
  end
