  // Order and stability are those of the FIFO inside, whose own properties hold here too. New are the credits.
  // The pipeline around it takes a credit only if there is one, and pushes what it has taken, some cycles later.
  (* hierconn *) wire [CountWidth-1:0] \u_fifo.count_q ;
  logic [5:0] f_flying;
  always @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) f_flying <= '0;
    else f_flying <= f_flying + 6'(take_i) - 6'(push_i);
  end
  always @(posedge clk_i) begin
    if (rst_ni) begin
      assume (!take_i || credit_o);
      assume (!push_i || f_flying != 6'd0);
      assert (!push_i || fits);
      assert (f_flying <= Depth && free_q <= Depth);
      assert (32'(free_q) + 32'(f_flying) + 32'(\u_fifo.count_q ) == Depth);
      cover (out_valid_o && f_flying == 6'd1 && free_q == '0);
    end
  end
