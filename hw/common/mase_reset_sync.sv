// Reset synchroniser: rst_no falls with rst_ni at once, and rises with the second rising edge of clk_i after its release.
//
// So rst_ni may be asserted at any time and released at any time: what rst_no resets leaves its reset in step with the
// clock. Two flip-flops with no logic between them; only the first can become metastable, at the release. A low pulse
// of any width that the flip-flops can see resets, and then lasts two rising edges or more.

`default_nettype none

module mase_reset_sync (
  input  wire logic clk_i,
  input  wire logic rst_ni,

  output      logic rst_no
);

  (* ASYNC_REG = "TRUE" *) logic first_q;
  (* ASYNC_REG = "TRUE" *) logic second_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      first_q  <= 1'b0;
      second_q <= 1'b0;
    end else begin
      first_q  <= 1'b1;
      second_q <= first_q;
    end
  end

  assign rst_no = second_q;

endmodule

`default_nettype wire
