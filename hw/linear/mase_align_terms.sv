// Aligned shift of group sums under a reference that is known before the sum starts.
//
//   E[p] = max(bias exponent, exponents of output p over the whole row)      found by a scan before the sums
//   term_o[p][g] = (whole[p][g] << Guard) >>> (E[p] - e[p][g])               floor; whole = sum of a complete region
//
// The scan presents exponents with scan_i high, the first one of an output with first_i; the last one lies at least one
// cycle before the first exponents that come with sums. RegionBeats beats make a region of constant exponents; end_i
// (with the sums) closes one. max_o is E and bias_down_o is E - bias exponent, both one cycle after exp_i.
// Sums come Delay cycles after their exponents; a term is registered once, and once more while a region gathers.

`default_nettype none

module mase_align_terms #(
  parameter int Pe = 1,
  parameter int Groups = 1,
  parameter int SumWidth = 8,
  parameter int PartWidth = 8,  // of the sum of a whole region
  parameter int TermWidth = 12,
  parameter int ExpWidth = 3,
  parameter int Guard = 4,
  parameter int Delay = 1,  // >= 1
  parameter int RegionBeats = 1
) (
  input  wire logic                           clk_i,
  input  wire logic                           rst_ni,
  input  wire logic                           scan_i,
  input  wire logic                           first_i,
  input  wire logic [Pe*ExpWidth-1:0]         bias_exp_i,
  input  wire logic [Pe*Groups*ExpWidth-1:0]  exp_i,
  output      logic [Pe*ExpWidth-1:0]         max_o,
  output      logic [Pe*ExpWidth-1:0]         bias_down_o,
  input  wire logic                           part_valid_i,
  input  wire logic                           end_i,
  input  wire logic [Pe*Groups*SumWidth-1:0]  part_i,
  output      logic [Pe*Groups*TermWidth-1:0] term_o
);

  localparam int Count = Pe * Groups;
  localparam int E = Count * ExpWidth;
  localparam int Wait = Delay + ((RegionBeats > 1) ? 1 : 0);

  // ---- the scan --------------------------------------------------------------------------------------------------

  logic [Pe*ExpWidth-1:0] max_q, bias_down_q, seen_q;

  for (genvar p = 0; p < Pe; p++) begin : gen_max
    logic [ExpWidth-1:0] seen, top;
    assign seen = first_i ? bias_exp_i[p*ExpWidth +: ExpWidth] : max_q[p*ExpWidth +: ExpWidth];
    always_comb begin
      top = seen;
      for (int g = 0; g < Groups; g++) begin
        if (exp_i[(p*Groups+g)*ExpWidth +: ExpWidth] > top) top = exp_i[(p*Groups+g)*ExpWidth +: ExpWidth];
      end
    end
    always_ff @(posedge clk_i) begin
      if (scan_i) max_q[p*ExpWidth +: ExpWidth] <= top;
      bias_down_q[p*ExpWidth +: ExpWidth] <= max_q[p*ExpWidth +: ExpWidth] - bias_exp_i[p*ExpWidth +: ExpWidth];
    end
  end
  always_ff @(posedge clk_i) seen_q <= max_q;
  assign max_o       = seen_q;
  assign bias_down_o = bias_down_q;

  // ---- E - e waits for its sum -------------------------------------------------------------------------------------

  logic [E-1:0]      down;
  logic [Wait*E-1:0] down_q;
  for (genvar i = 0; i < Count; i++) begin : gen_down
    assign down[i*ExpWidth +: ExpWidth] = max_q[(i/Groups)*ExpWidth +: ExpWidth] - exp_i[i*ExpWidth +: ExpWidth];
  end
  always_ff @(posedge clk_i) down_q <= (Wait * E)'({down_q, down});

  // ---- complete regions, shifted -----------------------------------------------------------------------------------

  for (genvar i = 0; i < Count; i++) begin : gen_term
    logic [PartWidth-1:0]              whole;
    logic signed [PartWidth+Guard-1:0] high, shifted;
    logic [TermWidth-1:0]              term_q;

    if (RegionBeats > 1) begin : gen_region
      logic [PartWidth-1:0] sum_q;
      logic                 open_q;  // the region has begun
      always_ff @(posedge clk_i or negedge rst_ni) begin
        if (!rst_ni) open_q <= 1'b0;
        else if (part_valid_i) open_q <= !end_i;
      end
      always_ff @(posedge clk_i) begin
        if (part_valid_i) sum_q <= (open_q ? sum_q : '0) + PartWidth'($signed(part_i[i*SumWidth +: SumWidth]));
      end
      assign whole = sum_q;
    end else begin : gen_beat
      assign whole = part_i[i*SumWidth +: SumWidth];
    end

    if (Guard > 0) begin : gen_guard
      assign high = {whole, {Guard{1'b0}}};
    end else begin : gen_no_guard
      assign high = whole;
    end
    assign shifted = high >>> down_q[(Wait-1)*E + i*ExpWidth +: ExpWidth];
    always_ff @(posedge clk_i) term_q <= TermWidth'(shifted);
    assign term_o[i*TermWidth +: TermWidth] = term_q;
  end

  if (RegionBeats == 1) begin : gen_unused
    logic unused;
    assign unused = &{1'b0, rst_ni, part_valid_i, end_i};
  end

endmodule

`default_nettype wire
