  // Words leave in the order of the nest: place = Start + sum of count * stride, of the sample that came as long ago; none is
  // read before it was written, and none is overwritten before its bank was read. The word at a freely chosen place of the
  // two banks is followed. Order and stability behind the memory are those of the FIFO, whose own properties hold here too.
  localparam int Stride4 = Step4;
  localparam int Stride3 = Step3 + (Count4 - 1) * Stride4;
  localparam int Stride2 = Step2 + (Count4 - 1) * Stride4 + (Count3 - 1) * Stride3;
  localparam int Stride1 = Step1 + (Count4 - 1) * Stride4 + (Count3 - 1) * Stride3 + (Count2 - 1) * Stride2;
  localparam int Stride0 = Step0 + (Count4 - 1) * Stride4 + (Count3 - 1) * Stride3 + (Count2 - 1) * Stride2
                           + (Count1 - 1) * Stride1;
  localparam int Reads = Count0 * Count1 * Count2 * Count3 * Count4;

  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  (* anyconst *) logic [AddressWidth-1:0] f_address;
  logic f_bank;
  logic [31:0] f_offset;  // in its bank
  logic f_known;  // it was written since its bank was read
  logic [Width-1:0] f_data;
  logic [3:0] f_in;  // samples written whole, modulo 16
  logic [3:0] f_out;  // samples read whole
  logic [31:0] f_written;  // words of the sample that comes
  logic [31:0] f_read;  // words of the sample that leaves
  logic [31:0] f_place;  // of the nest
  logic f_expect;  // the followed word was read in the last cycle
  logic [Width-1:0] f_expected;
  logic f_last;
  assign f_bank   = f_address >= AddressWidth'(Words);
  assign f_offset = 32'(f_address) - (f_bank ? Words : 0);
  assign f_place  = Start + 32'(count0_q) * Stride0 + 32'(count1_q) * Stride1 + 32'(count2_q) * Stride2
                    + 32'(count3_q) * Stride3 + 32'(count4_q) * Stride4;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_known   <= 1'b0;
      f_in      <= '0;
      f_out     <= '0;
      f_written <= '0;
      f_read    <= '0;
      f_expect  <= 1'b0;
    end else begin
      if (in_valid_i && in_ready_o) begin
        f_written <= (f_written == Words - 1) ? '0 : f_written + 1;
        if (f_written == Words - 1) f_in <= f_in + 4'd1;
        if (f_in[0] == f_bank && f_written == f_offset) begin
          f_known <= 1'b1;
          f_data  <= in_data_i;
        end
      end
      f_expect   <= fire && f_out[0] == f_bank && f_place == f_offset;
      f_expected <= f_data;
      f_last     <= f_read == Reads - 1;
      if (fire) begin
        f_read <= (f_read == Reads - 1) ? '0 : f_read + 1;
        if (f_read == Reads - 1) begin
          f_out <= f_out + 4'd1;
          if (f_out[0] == f_bank) f_known <= 1'b0;
        end
      end
    end
  end

  logic [3:0] f_full;
  assign f_full = f_in - f_out;
  always @(posedge clk_i) begin
    assume (f_address < 2 * Words);
    if (rst_ni) begin
      assert (f_full <= 4'd2 && fill_q == f_in[0] && leave_q == f_out[0]);
      assert (full_q[leave_q] == (f_full != '0) && full_q[!leave_q] == (f_full == 4'd2));
      assert (f_written < Words && 32'(write_q) == f_written + (fill_q ? Words : 0));
      assert (f_full != 4'd2 || f_written == '0);
      assert (f_read == '0 || f_full != '0);
      assert (count0_q < Count0 && count1_q < Count1 && count2_q < Count2 && count3_q < Count3 && count4_q < Count4);
      assert (f_read == (((32'(count0_q) * Count1 + 32'(count1_q)) * Count2 + 32'(count2_q)) * Count3 + 32'(count3_q))
                        * Count4 + 32'(count4_q));
      assert (read_q == AddressWidth'(f_place + (leave_q ? Words : 0)) && f_place < Words);
      if (full_q[f_bank] || (fill_q == f_bank && f_offset < f_written)) assert (f_known);
      if (f_known) assert (memory_q[f_address] == f_data);
      if (fire && f_out[0] == f_bank && f_place == f_offset) assert (f_known);  // what is read is of this sample
      if (f_expect) assert (valid_q && word_q == f_expected);
      if (valid_q) assert (last_q == f_last);
      assert (in_ready_o == (f_full != 4'd2));
      assert (32'(\u_fifo.free_q ) + 32'(valid_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      cover (f_in == 4'd3 && out_valid_o && out_ready_i && out_last_o);
    end
  end
