  // The definition, not a model: every number A >= 1 leaves once, in order, as the r with r**Power * A <= Top that is the
  // greatest below 2**Bits: (r + 1)**Power * A > Top, or r + 1 is 2**Bits. What comes beside A leaves beside r. Order and
  // stability behind that are those of the FIFO, whose own properties hold here too.
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.free_q ;
  (* hierconn *) wire [$clog2(FifoDepth+1)-1:0] \u_fifo.u_fifo.count_q ;

  logic [31:0] f_number;  // A
  logic [31:0] f_taken;  // numbers of this sample
  logic [5:0] f_inside;  // numbers that have not left
  logic f_last;
  logic [31:0] f_bits;  // that are still to be found
  logic [31:0] f_root;  // what is found, in its place
  logic [31:0] f_next;  // the next greater one of so many bits
  logic [31:0] f_power;  // f_root**Power * A
  logic [31:0] f_above;  // f_next**Power * A
  assign f_bits  = 32'(left_q) * Unroll;
  assign f_root  = 32'(root_q) << f_bits;
  assign f_next  = f_root + (32'd1 << f_bits);
  assign f_power = f_number * f_root * ((Power == 2) ? f_root : 32'd1);
  assign f_above = f_number * f_next * ((Power == 2) ? f_next : 32'd1);
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      f_taken  <= '0;
      f_inside <= '0;
    end else begin
      f_inside <= f_inside + 6'(in_valid_i && in_ready_o) - 6'(out_valid_o && out_ready_i);
      if (in_valid_i && in_ready_o) begin
        f_number <= 32'(in_data_i[ArgWidth-1:0]);
        f_taken  <= (f_taken == Rows - 1) ? '0 : f_taken + 1;
        f_last   <= f_taken == Rows - 1;
      end
    end
  end

  always @(posedge clk_i) begin
    if (in_valid_i) assume (in_data_i[ArgWidth-1:0] != '0);
    if (rst_ni) begin
      assert (left_q <= Steps && !(push_q && left_q != '0));
      assert (f_taken < Rows && 32'(row_q) == f_taken);
      assert (f_inside == 6'(left_q != '0) + 6'(push_q) + 6'(\u_fifo.u_fifo.count_q ));
      assert (32'(\u_fifo.free_q ) + 32'(left_q != '0) + 32'(push_q) + 32'(\u_fifo.u_fifo.count_q ) == FifoDepth);
      if (left_q != '0 || push_q) begin
        assert (f_number != '0 && f_number < (1 << ArgWidth));
        assert (f_root < (1 << Bits) && root_q == Padded'(f_root >> f_bits));
        assert (f_power <= Top && rest_q == Top - Wide'(f_power));
        assert (f_above > Top || f_next >= (1 << Bits));
        assert (last_q == f_last);
      end
      if (left_q != '0) begin
        assert (weight_q == Wide'(f_number) << (Power * (f_bits - 1)));
        assert (twice_q == ((Power == 2) ? (Wide'(f_number) * Wide'(f_root)) << f_bits : '0));
      end
      if (push_q) begin  // nothing is left to be found
        assert (32'(result[Bits-1:0]) == f_root);
      end
      assert (in_ready_o == (left_q == '0 && 32'(\u_fifo.free_q ) != 0));
      cover (push_q && f_root != '0 && f_root != (1 << Bits) - 1 && out_valid_o);
    end
  end
  if (Also != 0) begin : gen_formal_also
    logic [Also-1:0] f_beside;
    always @(posedge clk_i) begin
      if (in_valid_i && in_ready_o) f_beside <= in_data_i[ArgWidth +: Also];
      if (rst_ni && (left_q != '0 || push_q)) assert (gen_also.also_q == f_beside);
    end
  end
