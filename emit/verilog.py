"""Write a mapped graph as a self-contained folder of SystemVerilog (docs/design.md, "Emission")."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from emit import axis, library, package
from emit.certify import certify
from emit.design import SCHEMA, Design, Edge, edge_json
from emit.names import Names, identifier, top_name
from mase import __version__
from mase.dataflow.block import MemoryImage
from mase.dataflow.circuit import Pin
from mase.dataflow.stream import Travel
from mase.deadlock import timed
from mase.errors import GraphError, MaseError
from mase.formats import Code
from mase.graph import Graph
from mase.netlist import Netlist, build
from mase.paths import hw_dir

VECTORS = 4  # samples whose input and output beats lie beside the RTL


def emit(
    graph: Graph,
    folder: str | Path,
    name: str = "mase_top",
    clock_mhz: float | None = None,
    axis_pad: bool = False,
) -> Design:
    """Write the accelerator of a quantized, mapped graph.

    Args:
        folder: created, or replaced if it holds an earlier emission; the same graph gives the same bytes.
        name: of the top module, made legal.
        clock_mhz: the assumption that the README states; nothing in the hardware depends on it.
        axis_pad: of the AXI4-Stream wrapper, ``tdata`` padded to a power of two of bytes, with ``tkeep``.

    Raises:
        UnsupportedOp: a node has no hardware. GraphError: the folder holds something else.
        MaseError: it cannot be written.
    """
    folder = Path(folder)
    netlist = build(graph)
    files = render(netlist, top_name(name, _library()), clock_mhz, axis_pad)
    if folder.exists() and not folder.is_dir():
        raise GraphError(f"{folder}: is a file; allowed is an empty folder or an earlier emission")
    if folder.exists() and any(folder.iterdir()) and not (folder / "design.json").is_file():
        raise GraphError(f"{folder}: holds files but no design.json; allowed is an empty folder or an earlier emission")
    _write(folder, files)
    return Design.load(folder)


def render(
    netlist: Netlist, top: str, clock_mhz: float | None = None, axis_pad: bool = False
) -> dict[str, str | bytes]:
    """Return all files by relative path."""
    instances, signals = Names("u_", taken=("u_guard", "u_reset")), Names("s_")
    edges = _edges(netlist, signals)
    sources = library_files([i.block.sv_module for i in netlist.instances])
    memories: dict[str, MemoryImage] = {}
    files: dict[str, str | bytes] = {}
    body = [_instance(netlist, i, top, instances, signals, memories) for i in range(len(netlist.instances))]
    files[f"rtl/{top}.sv"] = _top(netlist, top, signals, body, bool(memories))
    for path in sources:
        files[f"rtl/{path.name}"] = path.read_text()
    for memory, image in memories.items():
        files[memory] = image.text()
    rtl = [f"rtl/{path.name}" for path in sources] + [f"rtl/{top}.sv"]
    around = [file for name in (*axis.MODULES, f"{top}_axis") if (file := f"rtl/{name}.sv") not in rtl]
    facts = axis.facts(edges[0], edges[-1], netlist.frames_inside(0, 0), axis_pad)
    timing, known = timed(netlist, 4), _library()
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "top": top,
        "input_shape": list(netlist.graph.inputs[0].record.output.shape[1:]),
        "edges": [edge_json(edge) for edge in edges],
        "files": {
            "rtl": library.private_files(top, rtl, known),
            "axis": library.private_files(top, around, known),
        },
        "instances": [
            {
                "name": instances[i.name],
                "module": i.block.sv_module,
                "definition": library.private_name(top, i.block.sv_module),
                "node": i.node,
                "role": i.role,
                "parameters": dict(i.block.sv_params()),
            }
            for i in netlist.instances
        ],
        "memories": {
            memory: {
                "width": image.width,
                "depth": image.depth,
                "layout": image.layout,
                "sha256": hashlib.sha256(image.text().encode()).hexdigest(),
            }
            for memory, image in memories.items()
        },
        "cycles": {
            "first_output": timing.first,
            "latency": timing.latency,
            "interval": str(timing.interval),
            "note": "source always valid, sink always ready; cycle 0 takes the first input beat",
        },
        "axis": facts,
        "clock_mhz": clock_mhz,
        "buffers": {
            "input_beats": netlist.backlog()[0],
            "note": "input beats that are taken while the sink is never ready",
        },
    }
    files |= package.wrapper(top, edges, facts, bool(memories))
    files = library.private(top, files, known)
    files["SHA256SUMS"] = sums = _sums(files)
    manifest["digest"] = hashlib.sha256(sums.encode()).hexdigest()
    files |= package.render(manifest, edges, _vectors(netlist, edges))
    certified = certify(netlist, top, {i.name: instances[i.name] for i in netlist.instances})
    files["certificate.json"] = json.dumps(certified, sort_keys=True) + "\n"
    files["design.json"] = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    return files


def _sums(files: Mapping[str, str | bytes]) -> str:
    """Return what ``sha256sum`` prints of the sources and the memories."""
    hardware = sorted(name for name in files if name.startswith(("rtl/", "mem/")))
    data = {name: text if isinstance(text := files[name], bytes) else text.encode() for name in hardware}
    return "".join(f"{hashlib.sha256(data[name]).hexdigest()}  {name}\n" for name in hardware)


def _edges(netlist: Netlist, signals: Names) -> list[Edge]:
    out = []
    for name, stream in netlist.edges().items():
        record = netlist.graph.node(name).record
        assert record.output.format is not None
        params = netlist.graph.params(name)
        out.append(
            Edge(name, record.path, signals[name], record.output.shape[1:], stream, record.output.format, params)
        )
    return out


def _library() -> dict[str, Path]:
    """Return the files of our own modules by module name."""
    return {path.stem: path for path in sorted(hw_dir().rglob("mase_*.sv"))}


def library_files(modules: list[str]) -> list[Path]:
    """Return the library files that the modules need, every file before those that use it."""
    library = _library()
    order: list[str] = []

    def visit(module: str) -> None:
        if module in order:
            return
        for used in re.findall(r"^\s*(mase_\w+)\s+(?:#\(|u_)", library[module].read_text(), re.MULTILINE):
            visit(used)
        order.append(module)

    for module in [*modules, "mase_reset_sync", "mase_stream_guard"]:
        visit(module)
    return [library[module] for module in order]


def _instance(
    netlist: Netlist, index: int, top: str, instances: Names, signals: Names, memories: dict[str, MemoryImage]
) -> str:
    """Return the text of one instance and note its memories."""
    item = netlist.instances[index]
    name = instances[item.name]
    ports = [("clk_i", "clk_i"), ("rst_ni", "run_q")]
    for port in item.block.inputs:
        before = signals[netlist.signal(Pin(item.name, port))]
        ports += [(f"{port}_valid_i", f"{before}_valid"), (f"{port}_ready_o", f"{before}_ready")]
        ports.append((f"{port}_data_i", f"{before}_data"))
    for port in item.block.outputs:
        after = signals[netlist.signal(Pin(item.name, port))]
        ports += [(f"{port}_valid_o", f"{after}_valid"), (f"{port}_ready_i", f"{after}_ready")]
        ports += [(f"{port}_data_o", f"{after}_data"), (f"{port}_last_o", f"{after}_last")]
    widest = max(len(port) for port, _ in ports)
    joined = ",\n".join(f"    .{port:<{widest}}({signal})" for port, signal in ports)
    values: dict[str, str] = {key: str(value) for key, value in item.block.sv_params().items()}
    for key, image in item.block.memories().items():
        file = f"mem/{top}__{name.removeprefix('u_')}_{identifier(key.removesuffix('File'), '')}.mem"
        memories[file] = image
        values[key] = f'{{MemDir, "/{file.removeprefix("mem/")}"}}'
    parameters = ",\n".join(f"    .{key}({value})" for key, value in values.items())
    return f"  {item.block.sv_module} #(\n{parameters}\n  ) {name} (\n{joined}\n  );\n"


def _top(netlist: Netlist, top: str, signals: Names, body: list[str], memories: bool) -> str:
    parameters = '#(\n  parameter MemDir = "mem"  // folder of the memory images\n) ' if memories else ""
    feed, give = netlist.stream_in, netlist.stream_out
    first, last = signals[netlist.entry], signals[netlist.exits[0]]
    declared = [f"  logic {first}_valid;\n  logic {first}_ready;\n  logic [{feed.bits - 1}:0] {first}_data;"]
    unused = []
    for pin in netlist.fifos():
        signal, bits = signals[netlist.signal(pin)], netlist.circuit.blocks[pin.block].outputs[pin.port].bits
        declared += [f"  logic {signal}_{part};" for part in ("valid", "ready", "last")]
        declared.append(f"  logic [{bits - 1}:0] {signal}_data;")
        if pin not in netlist.circuit.outputs:
            unused.append(f"{signal}_last")
    spare = ""
    if unused:
        listed = "".join(f",\n    {name}" for name in unused)
        spare = (
            "  // Inner blocks count beats themselves.\n  logic unused_last;\n"
            f"  assign unused_last = &{{\n    1'b0{listed}\n  }};\n\n"
        )
    return f"""\
// Top of the accelerator: one input stream, one output stream, valid/ready, last beat of a sample marked.
//
// rst_ni may be asserted at any time; its release is synchronised here. flush_i is a reset by a synchronous signal: no
// beat is taken in its cycles, everything in flight is dropped, an offer at the output is withdrawn, error_o is
// cleared ({top}_axis ends packets instead). error_o is sticky and says that in_last_i came at another beat than
// the counters expect (counters rule). Streams, formats and memories: design.json.

`default_nettype none

module {top} {parameters}(
  input  wire logic          clk_i,
  input  wire logic          rst_ni,
  input  wire logic          flush_i,
  output      logic          error_o,

  input  wire logic          in_valid_i,
  output      logic          in_ready_o,
  input  wire logic [{feed.bits - 1}:0] in_data_i,
  input  wire logic          in_last_i,

  output      logic          out_valid_o,
  input  wire logic          out_ready_i,
  output      logic [{give.bits - 1}:0] out_data_o,
  output      logic          out_last_o
);

  // Reset of all blocks: asynchronous with rst_ni, and for every cycle after one with flush_i.
  logic reset_n, run_q;

  mase_reset_sync u_reset (
    .clk_i (clk_i),
    .rst_ni(rst_ni),
    .rst_no(reset_n)
  );

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) run_q <= 1'b0;
    else run_q <= reset_n && !flush_i;
  end

{chr(10).join(declared)}

  assign {first}_valid = in_valid_i && run_q && !flush_i;
  assign {first}_data  = in_data_i;
  assign in_ready_o = {first}_ready && run_q && !flush_i;

  mase_stream_guard #(
    .Beats({feed.beats})
  ) u_guard (
    .clk_i  (clk_i),
    .rst_ni (run_q),
    .valid_i({first}_valid),
    .ready_i({first}_ready),
    .last_i (in_last_i),
    .error_o(error_o)
  );

{chr(10).join(body)}
{spare}  assign out_valid_o = {last}_valid && run_q;
  assign {last}_ready = out_ready_i && run_q;
  assign out_data_o = {last}_data;
  assign out_last_o = {last}_last;

endmodule

`default_nettype wire
"""


def _vectors(netlist: Netlist, edges: list[Edge]) -> dict[str, Code]:
    """Return codes of a few samples on the first and the last edge, made from random codes of the input format."""
    entry, grid = edges[0], edges[0].stream.grid
    generator = torch.Generator().manual_seed(0)
    shape = (VECTORS, *entry.shape)
    mantissa = torch.randint(grid.low, grid.high + 1, shape, generator=generator)
    exponent = None
    if grid.block:
        travel = entry.stream.travel or Travel.of(entry.shape)
        blocks = (VECTORS, *travel.block_axes(grid.block))
        exponent = grid.base + torch.randint(0, grid.span + 1, blocks, generator=generator)
    values = netlist.codes(Code(mantissa, exponent))
    return {"input": values[entry.name], "output": values[edges[-1].name]}


def _write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files beside the target, then take its place: the folder is whole or as before."""
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        temporary.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            folder.rename(old / "old")
            try:
                temporary.rename(folder)
            except OSError:
                (old / "old").rename(folder)
                raise
            finally:
                shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise MaseError(f"{folder}: cannot write: {error.strerror}") from error
