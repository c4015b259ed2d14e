// A function of one element by a polynomial a segment: Horner's rule in integers, then one rounding.
//
//   i = top SegBits bits of x, offset binary      z = the others, from -2**(R-1) to 2**(R-1) - 1, R = XWidth - SegBits
//   h = b[i] + (c[i] * z >> ShiftC)      t = a[i] + (h * z >> ShiftB)      y = round(t)          >> is floor
//
// Degree 1 has h = b[i]. The formula is the definition; RawOut leaves t unrounded for block_normalise. Word i of the
// memory holds a, b, c from bit 0 on. One beat of Lanes elements a cycle; latency: a memory a lane, Degree products,
// rounding (unless RawOut), FIFO, 1 each. Lanes beyond Cols give 0. in_ready_o is the credit of the output FIFO.

`default_nettype none

module mase_piecewise #(
  parameter int Beats = 1,  // a sample
  parameter int Lanes = 2,
  parameter int Cols = 2,  // of a row
  parameter int XWidth = 12,
  parameter bit XSigned = 1'b1,
  parameter int SegBits = 4,
  parameter int Degree = 2,
  parameter int AWidth = 16,
  parameter int BWidth = 14,
  parameter int CWidth = 10,  // Degree 1: 0
  parameter int ShiftB = 7,
  parameter int ShiftC = 7,
  parameter int HWidth = 15,  // holds every h
  parameter int SumWidth = 17,  // holds every t
  parameter bit RawOut = 1'b0,
  parameter int OutWidth = 8,
  parameter bit OutSigned = 1'b1,
  parameter bit Narrow = 1'b0,
  parameter bit Relu = 1'b0,
  parameter int ShiftRight = 8,
  parameter int ShiftLeft = 0,
  parameter int RoundMode = 0,
  parameter int Zero = 0,
  parameter int FifoDepth = 2,
  parameter TableFile = "",
  // Derived, do not override.
  parameter int InBits = Lanes * XWidth,
  parameter int OutBits = Lanes * OutWidth
) (
  input  wire logic               clk_i,
  input  wire logic               rst_ni,

  input  wire logic               in_valid_i,
  output      logic               in_ready_o,
  input  wire logic [InBits-1:0]  in_data_i,

  output      logic               out_valid_o,
  input  wire logic               out_ready_i,
  output      logic [OutBits-1:0] out_data_o,
  output      logic               out_last_o
);

  localparam int R = XWidth - SegBits;
  localparam int Segments = 1 << SegBits;
  localparam int Word = AWidth + BWidth + CWidth;
  localparam int RowBeats = (Cols + Lanes - 1) / Lanes;
  localparam int Tail = Cols - (RowBeats - 1) * Lanes;  // elements in the last beat of a row
  localparam int Stages = 1 + Degree;  // to t
  localparam int BeatWidth = (Beats > 1) ? $clog2(Beats) : 1;
  localparam int ColWidth = (RowBeats > 1) ? $clog2(RowBeats) : 1;

  logic                      fire, credit, last, row_end, y_valid, y_last;
  logic [BeatWidth-1:0]      beat_q;
  logic [ColWidth-1:0]       col_q;
  logic [Stages-1:0]         valid_q, last_q, end_q;
  logic [Lanes*SumWidth-1:0] t;
  logic [OutBits-1:0]        y;

  assign in_ready_o = credit;
  assign fire       = in_valid_i && credit;
  assign last       = beat_q == BeatWidth'(Beats - 1);
  assign row_end    = col_q == ColWidth'(RowBeats - 1);

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      beat_q  <= '0;
      col_q   <= '0;
      valid_q <= '0;
    end else begin
      if (fire) beat_q <= last ? '0 : beat_q + BeatWidth'(1);
      if (fire) col_q <= row_end ? '0 : col_q + ColWidth'(1);
      valid_q <= Stages'({valid_q, fire});
    end
  end
  always_ff @(posedge clk_i) begin
    last_q <= Stages'({last_q, last});
    end_q  <= Stages'({end_q, row_end});
  end

  for (genvar l = 0; l < Lanes; l++) begin : gen_lane
    logic [XWidth-1:0]          offset;
    logic [Word-1:0]            word;
    logic signed [R-1:0]        z_q, z;  // z: beside h
    logic signed [AWidth-1:0]   a;
    logic signed [HWidth-1:0]   h;
    logic signed [HWidth+R-1:0] product;
    logic signed [SumWidth-1:0] t_q;

    assign offset = {in_data_i[l*XWidth+XWidth-1] ^ XSigned, in_data_i[l*XWidth +: XWidth-1]};
    mase_rom #(.Width(Word), .Depth(Segments), .File(TableFile)) u_table (
      .clk_i (clk_i),
      .addr_i(offset[XWidth-1 -: SegBits]),
      .data_o(word)
    );
    always_ff @(posedge clk_i) z_q <= {!offset[R-1], offset[R-2:0]};

    if (Degree == 1) begin : gen_line
      assign a = word[0 +: AWidth];
      assign h = word[AWidth +: BWidth];
      assign z = z_q;
    end else begin : gen_square
      logic signed [BWidth-1:0]   b;
      logic signed [CWidth-1:0]   c;
      logic signed [CWidth+R-1:0] square;
      logic signed [AWidth-1:0]   a_q;
      logic signed [HWidth-1:0]   h_q;
      logic signed [R-1:0]        z_qq;
      assign b      = word[AWidth +: BWidth];
      assign c      = word[AWidth+BWidth +: CWidth];
      assign square = (CWidth + R)'(c * z_q);
      always_ff @(posedge clk_i) begin
        h_q  <= HWidth'(square >>> ShiftC) + HWidth'(b);
        a_q  <= word[0 +: AWidth];
        z_qq <= z_q;
      end
      assign a = a_q;
      assign h = h_q;
      assign z = z_qq;
    end

    assign product = (HWidth + R)'(h * z);
    always_ff @(posedge clk_i) begin
      t_q <= (l >= Tail && end_q[Stages-2]) ? '0 : SumWidth'(product >>> ShiftB) + SumWidth'(a);
    end
    assign t[l*SumWidth +: SumWidth] = t_q;
  end

  mase_output #(
    .Lanes(Lanes), .InWidth(SumWidth), .RawOut(RawOut), .OutWidth(OutWidth), .OutSigned(OutSigned),
    .Narrow(Narrow), .Relu(Relu), .ShiftRight(ShiftRight), .ShiftLeft(ShiftLeft), .RoundMode(RoundMode), .Zero(Zero)
  ) u_output (
    .clk_i  (clk_i),
    .rst_ni (rst_ni),
    .valid_i(valid_q[Stages-1]),
    .last_i (last_q[Stages-1]),
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
