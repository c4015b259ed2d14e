  // The words of each window leave in order, each the word of the image that came to its place; none is read before it came,
  // and none is overwritten while a window needs it; a window waits for its words alone, and a word for a free slot. The
  // word with a freely chosen number is followed; numbers count modulo 256, more than lie in any buffer here. Order and
  // stability behind the buffer are those of the FIFO, whose own properties hold here too.
  localparam int Image = Height * Row;
  localparam int Words = OutHeight * OutWidth * Groups * KernelHeight * KernelWidth * Beats;  // that leave
  localparam int Turns = Depth * (MostNext / Depth + 1);  // a multiple of Depth, so that no place below is negative
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  (* anyconst *) logic [7:0] f_index;
  logic [7:0] f_entered;  // words that came
  logic [7:0] f_base;  // number of the first word of the image that is read
  logic [7:0] f_base_slot;
  logic [9:0] f_read;  // words read of this image
  logic [Bits-1:0] f_data;
  logic f_expect;  // the followed word was read in the last cycle
  logic [Bits-1:0] f_expected;
  logic f_last;
  logic [9:0] f_start;  // place of the window in the image
  logic [9:0] f_inner;  // place in the window
  logic [7:0] f_from;  // how far the followed word lies behind the start of the window
  logic [9:0] f_slot;
  logic [7:0] f_number;  // of the word that is read
  logic [7:0] f_ahead;  // words that came since the start of the window, modulo 256
  logic signed [31:0] f_level;
  assign f_start  = 10'(row_q) * 10'(StrideHeight * Row) + 10'(col_q) * 10'(StrideWidth * Pixel);
  assign f_inner  = 10'(kernel_row_q) * 10'(DilationHeight * Row) + 10'(kernel_col_q) * 10'(DilationWidth * Pixel)
                   + 10'(group_q) * 10'(Beats) + 10'(beat_q);
  assign f_number = f_base + f_start[7:0] + f_inner[7:0];
  assign f_ahead  = f_entered - f_base - f_start[7:0];
  assign f_from   = f_index - f_base - f_start[7:0];
  assign f_slot   = (10'(f_base_slot) + f_start + 10'(f_from)) % 10'(Depth);
  assign f_level  = 32'(level_q);
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_entered   <= '0;
      f_base      <= '0;
      f_base_slot <= '0;
      f_read      <= '0;
      f_expect    <= 1'b0;
    end else begin
      if (in_valid_i && in_ready_o) begin
        f_entered <= f_entered + 8'd1;
        if (f_entered == f_index) f_data <= in_data_i;
      end
      f_expect   <= fire && f_number == f_index;
      f_expected <= f_data;
      f_last     <= f_read == 10'(Words - 1);
      if (fire) begin
        f_read <= (f_read == 10'(Words - 1)) ? '0 : f_read + 10'd1;
        if (f_read == 10'(Words - 1)) begin
          f_base      <= f_base + 8'(Image);
          f_base_slot <= 8'((32'(f_base_slot) + Image) % Depth);
        end
      end
    end
  end

  always @(posedge clk_i) begin
    if (rst_ni) begin
      assert (row_q < OutHeight && col_q < OutWidth && group_q < Groups && beat_q < Beats);
      assert (kernel_row_q < KernelHeight && kernel_col_q < KernelWidth);
      assert (f_read == (((((10'(row_q) * 10'(OutWidth) + 10'(col_q)) * 10'(Groups) + 10'(group_q)) * 10'(KernelHeight)
                         + 10'(kernel_row_q)) * 10'(KernelWidth)) + 10'(kernel_col_q)) * 10'(Beats) + 10'(beat_q));
      assert (f_base_slot < Depth && write_q < Depth && read_q < Depth);
      assert (f_ahead == f_level[7:0] && f_level <= Depth && f_level >= Span - MostNext);
      assert (open_q == (group_q != '0 || kernel_row_q != '0 || kernel_col_q != '0 || beat_q != '0));
      assert (!open_q || f_level >= Span);
      assert (10'(read_q) == (10'(f_base_slot) + f_start + f_inner) % 10'(Depth));
      assert (10'(write_q) == 10'((32'(f_base_slot) + 32'(f_start) + 32'(Turns) + f_level) % 32'(Depth)));
      if (f_level > 0 && 32'(f_from) < f_level) assert (memory_q[f_slot[AddrWidth-1:0]] == f_data);
      if (fire) assert (32'(f_inner) < f_level);  // it has come, and its slot is its own
      if (f_expect) assert (push_q && beat_data_q == f_expected);
      if (push_q) assert (last_q == f_last);
      assert (in_ready_o == (f_level < Depth));
      assert (fire == (f_level >= Span && credit));
      assert (32'(\u_fifo.free_q ) + 32'(push_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      cover (f_base == 8'(Image) && out_valid_o && out_ready_i && out_last_o);
    end
  end
