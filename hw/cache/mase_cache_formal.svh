  // After row i come the words of rows max(0, i - Keep + 1) .. i, each once, in order, each the word that was written last at
  // its place; none is read before its row came whole, none is overwritten while it is to be read. The word at a freely
  // chosen place of the ring is followed. Order and stability behind the memory are those of the FIFO, whose own properties
  // hold here too.
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  (* anyconst *) logic [7:0] f_address;
  logic [7:0] f_row;  // that comes, or that came last
  logic [7:0] f_written;  // words of it
  logic [7:0] f_read;  // words that left since
  logic [7:0] f_oldest;  // row that is read first
  logic [7:0] f_reads;  // words that leave after this row
  logic [7:0] f_place;  // of the word that is read
  logic [7:0] f_next;  // of the word that is written
  logic [7:0] f_held;  // words of this sample that were written so far
  logic f_known;  // the followed place has a word of this sample
  logic [Width-1:0] f_data;
  logic f_expect;  // the followed word was read in the last cycle
  logic [Width-1:0] f_expected;
  logic f_last;
  assign f_oldest = (f_row < 8'(Keep)) ? 8'd0 : f_row - 8'(Keep - 1);
  assign f_reads  = (f_row - f_oldest + 8'd1) * 8'(Beats);
  assign f_place  = (f_oldest * 8'(Beats) + f_read) % 8'(Words);
  assign f_held   = f_row * 8'(Beats) + f_written;
  assign f_next   = f_held % 8'(Words);
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_row     <= '0;
      f_written <= '0;
      f_read    <= '0;
      f_known   <= 1'b0;
      f_expect  <= 1'b0;
    end else begin
      f_expect   <= fire && f_place == f_address;
      f_expected <= f_data;
      f_last     <= f_row == 8'(Rows - 1) && f_read == f_reads - 8'd1;
      if (in_valid_i && in_ready_o) begin
        f_written <= f_written + 8'd1;
        if (f_next == f_address) begin
          f_known <= 1'b1;
          f_data  <= in_data_i;
        end
      end
      if (fire) begin
        f_read <= f_read + 8'd1;
        if (f_read == f_reads - 8'd1) begin
          f_read    <= '0;
          f_written <= '0;
          f_row     <= (f_row == 8'(Rows - 1)) ? '0 : f_row + 8'd1;
          if (f_row == 8'(Rows - 1)) f_known <= 1'b0;
        end
      end
    end
  end

  always @(posedge clk_i) begin
    assume (f_address < Words);
    if (rst_ni) begin
      assert (f_row < Rows && 8'(row_q) == f_row && f_written <= Beats && f_read < f_reads);
      assert (give_q == (f_written == Beats) && (give_q || f_read == '0));
      assert (give_q || 8'(beat_q) == f_written);
      assert (!give_q || beat_q == '0);
      assert (8'(write_q) == f_next && write_q < Words && read_q < Words);
      assert (full_q == (f_held >= Words));
      if (give_q) assert (8'(read_q) == f_place && 8'(newest_q) == (f_held - 8'd1) % 8'(Words));
      assert (f_known == (f_address < f_held));
      if (f_known) assert (memory_q[f_address[AddressWidth-1:0]] == f_data);
      if (fire && f_place == f_address) assert (f_known);
      if (f_expect) assert (valid_q && word_q == f_expected);
      if (valid_q) assert (last_q == f_last);
      assert (in_ready_o == (f_written != Beats));
      assert (fire == (f_written == Beats && 32'(\u_fifo.free_q ) != 0));
      assert (32'(\u_fifo.free_q ) + 32'(valid_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      cover (f_row == '0 && out_valid_o && out_ready_i && out_last_o);
    end
  end
