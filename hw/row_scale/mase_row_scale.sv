// Scale each row by a factor of its own and each element by constants of its column, with one rounding: the last step
// of a normalisation of rows.
//
//   Centred 0: y[c] = round(x[c] * g[c] * R + b[c])                         R the row's factor
//   Centred 1: y[c] = round((Cols * x[c] - S) * g[c] * R + b[c])            S the row's sum, above R
//
// x is a code with its block's exponent, x << e; g and b lie on one unit each, and are 0 beyond Cols. Exact until the
// rounding; RawOut leaves the sums unrounded for block_normalise. The row's beat of r stays until the last beat of x.
// One beat of Lanes elements a cycle; latency: shift, difference, two products, rounding (unless RawOut), FIFO, 1 each.
// Each ready is the credit of the output FIFO and the other side's valid: registers.

`default_nettype none

module mase_row_scale #(
  parameter int Rows = 1,
  parameter int Cols = 4,
  parameter int Lanes = 2,
  parameter int XWidth = 8,
  parameter bit XSigned = 1'b1,
  parameter int XExpBits = 0,  // 0: x carries no exponents
  parameter int XBlock = 1,
  parameter bit Centred = 1'b1,
  parameter int RWidth = 12,  // of a lane of r
  parameter int RootBits = 11,
  parameter int DiffWidth = 12,  // holds Cols * x - S, or x
  parameter int MultWidth = 13,
  parameter int AddWidth = 20,
  parameter int SumWidth = 40,  // holds every result, and more than DiffWidth + MultWidth bits
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 16,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  parameter int FifoDepth = 2,
  parameter MultFile = "",
  parameter AddFile = "",
  // Derived, do not override.
  parameter int XExps = (XExpBits == 0) ? 0 : (Lanes > XBlock) ? Lanes / XBlock : 1,
  parameter int InBits = Lanes * XWidth + XExps * XExpBits,
  parameter int RBits = (Centred != 0) ? 2 * RWidth : RWidth,
  parameter int OutBits = Lanes * OutWidth
) (
  input  wire logic               clk_i,
  input  wire logic               rst_ni,

  input  wire logic               x_valid_i,
  output      logic               x_ready_o,
  input  wire logic [InBits-1:0]  x_data_i,

  input  wire logic               r_valid_i,
  output      logic               r_ready_o,
  input  wire logic [RBits-1:0]   r_data_i,

  output      logic               out_valid_o,
  input  wire logic               out_ready_i,
  output      logic [OutBits-1:0] out_data_o,
  output      logic               out_last_o
);

  localparam int A = XWidth + (XSigned ? 0 : 1);
  localparam int Shifted = A + ((XExpBits == 0) ? 0 : (1 << XExpBits) - 1);
  localparam int Product = DiffWidth + MultWidth;
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;
  localparam int RowWidth = (Rows > 1) ? $clog2(Rows) : 1;

  logic                       fire, credit, row_end, last, y_valid, y_last;
  logic [ColWidth-1:0]        col_q;
  logic [RowWidth-1:0]        row_q;
  logic [3:0]                 valid_q, last_q;
  logic [Lanes*MultWidth-1:0] mult;
  logic [Lanes*AddWidth-1:0]  add;
  logic [Lanes*SumWidth-1:0]  t;
  logic [OutBits-1:0]         y;

  assign row_end   = col_q == ColWidth'(RowBeats - 1);
  assign last      = row_end && row_q == RowWidth'(Rows - 1);
  assign x_ready_o = credit && r_valid_i;
  assign r_ready_o = credit && x_valid_i && row_end;
  assign fire      = credit && x_valid_i && r_valid_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      col_q   <= '0;
      row_q   <= '0;
      valid_q <= '0;
    end else begin
      if (fire) col_q <= row_end ? '0 : col_q + ColWidth'(1);
      if (fire && row_end) row_q <= last ? '0 : row_q + RowWidth'(1);
      valid_q <= {valid_q[2:0], fire};
    end
  end
  always_ff @(posedge clk_i) last_q <= {last_q[2:0], last};

  mase_rom #(.Width(Lanes * MultWidth), .Depth(RowBeats), .File(MultFile)) u_mult (
    .clk_i (clk_i),
    .addr_i(col_q),
    .data_o(mult)
  );
  mase_rom #(.Width(Lanes * AddWidth), .Depth(RowBeats), .File(AddFile)) u_add (
    .clk_i (clk_i),
    .addr_i(col_q),
    .data_o(add)
  );

  // ---- the row's factor, and its sum, as many cycles later as they are needed --------------------------------------

  logic [3*RootBits-1:0]       root_q;
  logic signed [DiffWidth-1:0] row_sum_q;
  always_ff @(posedge clk_i) root_q <= {root_q[2*RootBits-1:0], r_data_i[RootBits-1:0]};
  if (Centred) begin : gen_sum
    if (RWidth > RootBits) begin : gen_unused
      logic unused;
      assign unused = &{1'b0, r_data_i[RWidth-1:RootBits]};
    end
    always_ff @(posedge clk_i) row_sum_q <= DiffWidth'($signed(r_data_i[RWidth +: RWidth]));
  end else begin : gen_no_sum
    assign row_sum_q = '0;
  end

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic signed [A-1:0]         x;
    logic signed [Shifted-1:0]   shifted_q;
    logic signed [DiffWidth-1:0] diff_q;
    logic signed [MultWidth-1:0] mult_q;
    logic signed [AddWidth-1:0]  add_q, add2_q;
    logic signed [Product-1:0]   product_q;
    logic signed [RootBits:0]    root;
    logic signed [SumWidth-1:0]  scaled, sum_q;
    if (XSigned) begin : gen_signed
      assign x = x_data_i[l*XWidth +: XWidth];
    end else begin : gen_unsigned
      assign x = {1'b0, x_data_i[l*XWidth +: XWidth]};
    end
    if (XExpBits == 0) begin : gen_plain
      always_ff @(posedge clk_i) shifted_q <= x;
    end else begin : gen_exp
      localparam int Index = (XExps > 1) ? l / XBlock : 0;
      always_ff @(posedge clk_i) begin
        shifted_q <= Shifted'(x) << x_data_i[Lanes*XWidth + Index*XExpBits +: XExpBits];
      end
    end
    assign root   = {1'b0, root_q[2*RootBits +: RootBits]};
    assign scaled = product_q * root;
    always_ff @(posedge clk_i) begin
      diff_q    <= Centred ? DiffWidth'(shifted_q) * DiffWidth'(Cols) - row_sum_q : DiffWidth'(shifted_q);
      mult_q    <= mult[l*MultWidth +: MultWidth];
      add_q     <= add[l*AddWidth +: AddWidth];
      product_q <= diff_q * mult_q;
      add2_q    <= add_q;
      sum_q     <= scaled + SumWidth'(add2_q);
    end
    assign t[l*SumWidth +: SumWidth] = sum_q;
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(SumWidth), .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned),
    .Narrow(Narrow), .Relu(Relu), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(valid_q[3]),
    .last_i (last_q[3]),
    .t_i    (t),
    .mult_i ({Lanes{1'b0}}),
    .exp_i  ({Lanes{1'b0}}),
    .valid_o(y_valid),
    .last_o (y_last),
    .y_o    (y)
  );

  mase_credit_fifo #(.Width(OutBits + 1), .Depth(FifoDepth)) u_fifo (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .take_i     (fire),
    .credit_o   (credit),
    .push_i     (y_valid),
    .push_data_i({y_last, y}),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o ({out_last_o, out_data_o})
  );

endmodule

`default_nettype wire
