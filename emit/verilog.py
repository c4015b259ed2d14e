"""Write a mapped graph as a self-contained folder of SystemVerilog (docs/design.md, "Emission")."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from emit import axis, library, package
from emit.certify import certify
from emit.design import SCHEMA, Design, Direction, Edge, Ends, Port, edge_json, port_json
from emit.names import Names, identifier, port_names, top_name
from mase import __version__
from mase.dataflow.block import MemoryImage
from mase.dataflow.circuit import Pin
from mase.dataflow.schedule import Timing
from mase.deadlock import timed
from mase.errors import GraphError, MaseError
from mase.formats import Code
from mase.graph import Graph, OpNode
from mase.interpreter import argument
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
    edges, signals = _edges(netlist, names := Names("s_")), names
    ends = _ends(netlist, edges, axis_pad)
    guards = [f"u_guard_{port.name}" for port in ends.inputs]
    instances = Names("u_", taken=("u_guard", "u_reset", *guards))
    sources = library_files([i.block.sv_module for i in netlist.instances])
    memories: dict[str, MemoryImage] = {}
    files: dict[str, str | bytes] = {}
    body = [_instance(netlist, i, top, instances, signals, memories) for i in range(len(netlist.instances))]
    files[f"rtl/{top}.sv"] = core(netlist, top, ends, signals, body, bool(memories))
    for path in sources:
        files[f"rtl/{path.name}"] = path.read_text()
    for memory, image in memories.items():
        files[memory] = image.text()
    rtl = [f"rtl/{path.name}" for path in sources] + [f"rtl/{top}.sv"]
    around = [file for name in (*axis.MODULES, f"{top}_axis") if (file := f"rtl/{name}.sv") not in rtl]
    known = _library()
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "top": top,
        "ports": [port_json(port) for port in ends.all],
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
                "outputs": {port: signals[netlist.signal(Pin(i.name, port))] for port in i.block.outputs},
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
        "cycles": _cycles(timed(netlist, 4), ends),
        "axis": axis.facts(netlist, ends, axis_pad),
        "clock_mhz": clock_mhz,
        "buffers": {
            "input_beats": dict(zip((port.name for port in ends.inputs), netlist.backlog(), strict=True)),
            "note": "input beats that are taken while no sink is ever ready",
        },
    }
    files |= package.wrapper(top, ends, manifest["axis"], bool(memories))
    files = library.private(top, files, known)
    files["SHA256SUMS"] = sums = _sums(files)
    manifest["digest"] = hashlib.sha256(sums.encode()).hexdigest()
    files |= package.render(manifest, ends, edges, _vectors(netlist, ends))
    certified = certify(netlist, top, {i.name: instances[i.name] for i in netlist.instances})
    files["certificate.json"] = json.dumps(certified, sort_keys=True) + "\n"
    files["design.json"] = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    return files


def _cycles(timing: Timing, ends: Ends) -> dict[str, Any]:
    def figures(found: Timing) -> dict[str, Any]:
        return {"first_output": found.first, "latency": found.latency, "interval": str(found.interval)}

    return {
        **figures(timing),
        "outputs": {port.name: figures(found) for port, found in zip(ends.outputs, timing.each, strict=True)},
        "note": "sources always valid, sinks always ready; cycle 0 takes the first input beat",
    }


def _sums(files: Mapping[str, str | bytes]) -> str:
    """Return what ``sha256sum`` prints of the sources and the memories."""
    hardware = sorted(name for name in files if name.startswith(("rtl/", "mem/")))
    data = {name: text if isinstance(text := files[name], bytes) else text.encode() for name in hardware}
    return "".join(f"{hashlib.sha256(data[name]).hexdigest()}  {name}\n" for name in hardware)


def _edges(netlist: Netlist, signals: Names) -> list[Edge]:
    out, known = [], netlist.edges()
    for name, stream in known.items():
        record = netlist.graph.node(name).record
        assert record.output.format is not None
        params, shape = netlist.graph.params(name), record.output.shape[1:]
        before = () if name in netlist.entries else _before(netlist.graph.node(name), known)
        out.append(Edge(name, record.path, signals[name], shape, stream, record.output.format, params, before))
    return out


def _before(node: OpNode, known: Container[str]) -> tuple[str, ...]:
    """Return the named edges that a node's result comes from, each once."""
    found = [(s.name,) if s.name in known else _before(s, known) for s in node.inputs]
    return tuple(dict.fromkeys(name for names in found for name in names))


def _ends(netlist: Netlist, edges: Sequence[Edge], pad: bool) -> Ends:
    """Return the streams of the top module."""
    graph, by_name = netlist.graph, {edge.name: edge for edge in edges}
    fields = graph.output.record.attrs.get("fields", ["output"])
    ins, outs = port_names([argument(node) for node in graph.inputs], fields)
    inputs = [
        (name, argument(node), node.record.output.shape[1:], by_name[edge])
        for name, node, edge in zip(ins, graph.inputs, netlist.entries, strict=True)
    ]
    outputs = [
        (name, tensor, by_name[edge].shape, by_name[edge])
        for name, tensor, edge in zip(outs, fields, netlist.exits, strict=True)
    ]
    single = len(inputs) == len(outputs) == 1

    def port(way: Direction, name: str, tensor: str, shape: tuple[int, ...], edge: Edge) -> Port:
        side = "s_axis" if way == "in" else "m_axis"
        stem = side if single else f"{side}_{name}"
        return Port(name, way, tensor, shape, edge, stem, axis.bus_bytes(edge, pad))

    return Ends(tuple(port("in", *item) for item in inputs), tuple(port("out", *item) for item in outputs))


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


def core(netlist: Netlist, top: str, ends: Ends, signals: Names, body: list[str], memories: bool) -> str:
    """Return the text of the top module."""
    parameters = '#(\n  parameter MemDir = "mem"  // folder of the memory images\n) ' if memories else ""
    given = [signals[netlist.signal(pin)] for pin in netlist.circuit.outputs]
    fed = [signals[name] for name in netlist.entries]
    declared = [
        f"  logic {name}_valid;\n  logic {name}_ready;\n  logic [{port.stream.bits - 1}:0] {name}_data;"
        for name, port in zip(fed, ends.inputs, strict=True)
    ]
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
    single = len(ends.inputs) == 1
    errors = ["error_o"] if single else [f"wrong_{port.name}" for port in ends.inputs]
    if not single:
        declared += [f"  logic {wrong};" for wrong in errors]
    guards = [_guard(port, name, wrong, single) for port, name, wrong in zip(ends.inputs, fed, errors, strict=True)]
    either = "" if single else f"  assign error_o = {axis.either(errors)};\n\n"
    offer, last = ("the output", "in_last_i") if ends.single else ("an output", "a last_i")
    return f"""\
// Top of the accelerator: {_streams(ends)}, valid/ready, last beat of a sample marked.
//
// rst_ni may be asserted at any time; its release is synchronised here. flush_i is a reset by a synchronous signal: no
// beat is taken in its cycles, everything in flight is dropped, an offer at {offer} is withdrawn, error_o is
// cleared ({top}_axis ends packets instead). error_o is sticky and says that {last} came at another beat than
// the counters expect (counters rule). Streams, formats and memories: design.json.

`default_nettype none

module {top} {parameters}(
  input  wire logic          clk_i,
  input  wire logic          rst_ni,
  input  wire logic          flush_i,
  output      logic          error_o,

{f",{chr(10)}{chr(10)}".join(map(_port, ends.all))}
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

{"".join(guards)}{either}{chr(10).join(body)}
{spare}{chr(10).join(_leaving(port, name) for port, name in zip(ends.outputs, given, strict=True))}
endmodule

`default_nettype wire
"""


def _streams(ends: Ends) -> str:
    counts = ((len(ends.inputs), "input stream"), (len(ends.outputs), "output stream"))
    return ", ".join(f"one {what}" if count == 1 else f"{count} {what}s" for count, what in counts)


def _port(port: Port) -> str:
    name, bits = port.name, port.stream.bits
    if port.direction == "in":
        return f"""\
  input  wire logic          {name}_valid_i,
  output      logic          {name}_ready_o,
  input  wire logic [{bits - 1}:0] {name}_data_i,
  input  wire logic          {name}_last_i"""
    return f"""\
  output      logic          {name}_valid_o,
  input  wire logic          {name}_ready_i,
  output      logic [{bits - 1}:0] {name}_data_o,
  output      logic          {name}_last_o"""


def _guard(port: Port, signal: str, wrong: str, single: bool) -> str:
    """Return how an input stream enters, and what watches its samples."""
    name = port.name
    return f"""\
  assign {signal}_valid = {name}_valid_i && run_q && !flush_i;
  assign {signal}_data  = {name}_data_i;
  assign {name}_ready_o = {signal}_ready && run_q && !flush_i;

  mase_stream_guard #(
    .Beats({port.stream.beats})
  ) u_guard{"" if single else f"_{name}"} (
    .clk_i  (clk_i),
    .rst_ni (run_q),
    .valid_i({signal}_valid),
    .ready_i({signal}_ready),
    .last_i ({name}_last_i),
    .error_o({wrong})
  );

"""


def _leaving(port: Port, signal: str) -> str:
    """Return how an output stream leaves."""
    name = port.name
    return f"""\
  assign {name}_valid_o = {signal}_valid && run_q;
  assign {signal}_ready = {name}_ready_i && run_q;
  assign {name}_data_o = {signal}_data;
  assign {name}_last_o = {signal}_last;
"""


def _vectors(netlist: Netlist, ends: Ends) -> dict[str, Code]:
    """Return codes of a few samples on each port, made from random codes of the input formats."""
    generator = torch.Generator().manual_seed(0)
    fed = [_random(port.edge, generator) for port in ends.inputs]
    values = netlist.codes(*fed)
    return {port.name: values[port.edge.name] for port in ends.all}


def _random(edge: Edge, generator: torch.Generator) -> Code:
    grid, shape = edge.stream.grid, (VECTORS, *edge.shape)
    mantissa = torch.randint(grid.low, grid.high + 1, shape, generator=generator)
    if not grid.block:
        return Code(mantissa)
    blocks = (VECTORS, *edge.travel.block_axes(grid.block))
    return Code(mantissa, grid.base + torch.randint(0, grid.span + 1, blocks, generator=generator))


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
