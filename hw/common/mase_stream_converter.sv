// Re-chunk a stream of elements that may share exponents: InLanes a beat in, OutLanes a beat out.
//
// A beat is Lanes mantissas of Width bits, lane 0 lowest, then one exponent of ExpBits for each block of Block
// elements that it touches (none with ExpBits = 0). Unit elements, with their exponents, move together; Unit divides
// both lane counts. Timing and handshake are those of mase_width_converter, which this wraps.

`default_nettype none

module mase_stream_converter #(
  parameter int InLanes = 4,
  parameter int OutLanes = 2,
  parameter int Width = 8,
  parameter int ExpBits = 0,
  parameter int Block = 1,
  parameter int Unit = 2,
  parameter int InBeats = 1,
  parameter int InTail = 2,
  parameter int OutBeats = 2,
  parameter int OutTail = 1,
  parameter int Rows = 1,
  parameter int DropTail = 1,
  parameter int FifoDepth = 3,
  // Derived, do not override.
  parameter int InExps = (ExpBits == 0) ? 0 : (InLanes > Block) ? InLanes / Block : 1,
  parameter int OutExps = (ExpBits == 0) ? 0 : (OutLanes > Block) ? OutLanes / Block : 1,
  parameter int InBits = InLanes * Width + InExps * ExpBits,
  parameter int OutBits = OutLanes * Width + OutExps * ExpBits
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

  localparam int UnitExps = (ExpBits == 0) ? 0 : (Unit > Block) ? Unit / Block : 1;
  localparam int Mantissas = Unit * Width;
  localparam int UnitWidth = Mantissas + UnitExps * ExpBits;
  localparam int InUnits = InLanes / Unit;
  localparam int OutUnits = OutLanes / Unit;

  logic [InUnits*UnitWidth-1:0]  in_units;
  logic [OutUnits*UnitWidth-1:0] out_units;

  for (genvar u = 0; u < InUnits; u++) begin : gen_in
    assign in_units[u*UnitWidth +: Mantissas] = in_data_i[u*Mantissas +: Mantissas];
    for (genvar e = 0; e < UnitExps; e++) begin : gen_exp
      localparam int Index = (InExps > 1) ? u * Unit / Block + e : 0;
      assign in_units[u*UnitWidth + Mantissas + e*ExpBits +: ExpBits] =
        in_data_i[InLanes*Width + Index*ExpBits +: ExpBits];
    end
  end

  mase_width_converter #(
    .UnitWidth(UnitWidth), .InUnits(InUnits), .OutUnits(OutUnits), .InBeats(InBeats), .InTail(InTail),
    .OutBeats(OutBeats), .OutTail(OutTail), .Rows(Rows), .DropTail(DropTail), .FifoDepth(FifoDepth)
  ) u_units (
    .clk_i      (clk_i),
    .rst_ni     (rst_ni),
    .in_valid_i (in_valid_i),
    .in_ready_o (in_ready_o),
    .in_data_i  (in_units),
    .out_valid_o(out_valid_o),
    .out_ready_i(out_ready_i),
    .out_data_o (out_units),
    .out_last_o (out_last_o)
  );

  for (genvar u = 0; u < OutUnits; u++) begin : gen_out
    assign out_data_o[u*Mantissas +: Mantissas] = out_units[u*UnitWidth +: Mantissas];
  end
  if (UnitExps != 0) begin : gen_unused
    // Units of one block carry the same exponent; the first one's is taken.
    logic unused_exps;
    assign unused_exps = &{1'b0, out_units};
  end
  for (genvar e = 0; e < OutExps; e++) begin : gen_out_exp
    localparam int First = e * Block / Unit;
    localparam int Index = (UnitExps > 1) ? e % UnitExps : 0;
    assign out_data_o[OutLanes*Width + e*ExpBits +: ExpBits] =
      out_units[First*UnitWidth + Mantissas + Index*ExpBits +: ExpBits];
  end

endmodule

`default_nettype wire
