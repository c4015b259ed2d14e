"""Find the block that computes something else than it should: compare every wire of a design, the inner ones too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from emit.design import Design, Wire
from emit.sim import Job, SimResult, flags_for, simulate_many
from emit.verify import check_edges
from mase.dataflow.block import Block
from mase.dataflow.circuit import Pin
from mase.errors import ConfigError, GraphError
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import Graph
from mase.interpreter import Batch
from mase.netlist import Instance, Netlist, build

TRIED = 1 << 22  # elements of the inputs that are changed at a time to see what an element depends on
SHOWN = 16  # operands in the text


@dataclass(frozen=True)
class WireResult:
    """One wire: the output of a block, elements compared and different."""

    wire: str
    node: str
    module: str
    instance: str
    elements: int
    mismatches: int


@dataclass(frozen=True)
class Value:
    """The code of one element, with the exponent of its block (None without one)."""

    code: int
    exponent: int | None

    def __str__(self) -> str:
        return str(self.code) if self.exponent is None else f"{self.code} (exponent {self.exponent})"


@dataclass(frozen=True)
class Operand:
    """An element that the wrong one depends on, by the wire that it came on; all these wires are right."""

    wire: str
    row: int
    column: int
    value: Value


@dataclass(frozen=True)
class Fault:
    """The first element that differs, on the first wire in order of the stream.

    Args:
        where: the node with its source line. module, instance: the block that gives it. sample, row, column: as
            elements travel. operands: of the block, for this element. accumulator: exact integer that is rounded.
        rounding: what is done with it. Both are None of a block that has no accumulator.
    """

    wire: str
    where: str
    module: str
    instance: str
    sample: int
    row: int
    column: int
    expected: Value
    found: Value
    operands: tuple[Operand, ...]
    accumulator: int | None
    rounding: str | None

    def __str__(self) -> str:
        given = ", ".join(f"{o.wire}[{o.row}, {o.column}] = {o.value}" for o in self.operands[:SHOWN])
        rest = f" and {len(self.operands) - SHOWN} more" if len(self.operands) > SHOWN else ""
        text = (
            f"wire {self.wire} of {self.where}, block {self.module} {self.instance}, sample {self.sample}, "
            f"row {self.row}, column {self.column}: expected code {self.expected}, found {self.found}. "
            f"Operands: {given}{rest}."
        )
        if self.accumulator is None:
            return text
        return f"{text} Accumulator: {self.accumulator}; rounding: {self.rounding}."


@dataclass(frozen=True)
class Comparison:
    """All wires of a design, in order of the stream."""

    design: str
    samples: int
    wires: tuple[WireResult, ...]
    first: Fault | None

    @property
    def ok(self) -> bool:
        """Tell whether every code on every wire is equal."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        codes, wrong = sum(w.elements for w in self.wires), sum(w.mismatches for w in self.wires)
        if self.first is None:
            return f"{self.design}: {self.samples} samples, {codes} codes on {len(self.wires)} wires, all equal."
        bad = sum(1 for w in self.wires if w.mismatches)
        told = f"{wrong} of {codes} codes differ, on {bad} of {len(self.wires)} wires, in {self.samples} samples"
        return f"{self.design}: {told}. The first: {self.first}"


def compare(graph: Graph, design: Design, x: Batch) -> Comparison:
    """Run samples through the RTL and compare every wire with what its block should give.

    Args:
        graph: the mapped graph that the design was emitted from. x: model inputs ``[samples, *shape]``: a tensor, one
            tensor an input, or tensors by name.

    Raises:
        ConfigError: there is no sample. GraphError: the design is not of this graph.
        ToolError: the RTL does not compile, or stops; says who waits on whom.
    """
    check_edges(graph, design)
    netlist = build(graph)
    tapped, codes = tap(netlist, design), design.encode(x)
    samples = len(codes[0].mantissa)
    if not samples:
        raise ConfigError("compare: found 0 samples; allowed is 1 or more")
    (result,) = simulate_many([Job(tapped, codes)], flags_for(design, samples))
    return judge(netlist, codes, result)


def tap(netlist: Netlist, design: Design) -> Design:
    """Return the design with every wire recorded."""
    listed = {item["name"]: item for item in design.manifest["instances"]}
    by_node = {(item["node"], item["role"]): item for item in listed.values()}
    wires = []
    for instance in netlist.instances:
        item = by_node.get((instance.node, instance.role), {})
        for port, stream in instance.block.outputs.items():
            signal = item.get("outputs", {}).get(port)
            if signal is None:
                raise GraphError(f"{design.folder}: does not say where {instance.name} gives; emit the graph again")
            name = _wire(Pin(instance.name, port))
            path = netlist.graph.node(instance.node).path
            wires.append(Wire(name, path, signal, (stream.rows, stream.cols), replace(stream, travel=None)))
    return replace(design, wires=tuple(wires))


def judge(netlist: Netlist, codes: Sequence[Code], result: SimResult) -> Comparison:
    """Compare the recorded wires of a simulation.

    Args:
        codes: of each entry, as they were fed. result: of a design from :func:`tap`.
    """
    names = {(item["node"], item["role"]): item["name"] for item in result.design.manifest["instances"]}
    streams = [netlist.stream(name) for name in netlist.entries]
    fed = [stream.unpack(stream.pack(code)) for stream, code in zip(streams, codes, strict=True)]  # as they travel
    expected = netlist.circuit.run(*fed)
    expected |= {Pin("", name): code for name, code in zip(netlist.entries, fed, strict=True)}
    rows, first = [], None
    for instance in netlist.instances:
        rtl = names[instance.node, instance.role]
        for port in instance.block.outputs:
            pin = Pin(instance.name, port)
            wrong = _differs(expected[pin], result.codes[_wire(pin)], instance.block.outputs[port].grid)
            where = (_wire(pin), instance.node, instance.block.sv_module, rtl)
            rows.append(WireResult(*where, wrong.numel(), int(wrong.sum())))
            if first is None and rows[-1].mismatches:
                sample, row, column = wrong.nonzero()[0].tolist()
                first = _fault(netlist, instance, pin, rtl, expected, result.codes, (sample, row, column))
    return Comparison(result.design.top, len(codes[0].mantissa), tuple(rows), first)


def _wire(pin: Pin) -> str:
    return ".".join(pin)


def _differs(a: Code, b: Code, grid: Grid) -> Tensor:
    """Tell for each element whether its code, or the exponent of its block, differs."""
    wrong = a.mantissa != b.mantissa
    if a.exponent is None or b.exponent is None:
        return wrong
    return wrong | (a.exponent != b.exponent).repeat_interleave(grid.block, -1)[..., : wrong.shape[-1]]


def _fault(
    netlist: Netlist,
    instance: Instance,
    pin: Pin,
    rtl: str,
    expected: dict[Pin, Code],
    found: dict[str, Code],
    at: tuple[int, int, int],
) -> Fault:
    sample, row, column = at
    block, grid = instance.block, instance.block.outputs[pin.port].grid
    sources = {wire.sink: wire.source for wire in netlist.circuit.wires}
    sources |= {pin: Pin("", name) for pin, name in zip(netlist.circuit.inputs, netlist.entries, strict=True)}
    feeds = [sources[Pin(instance.name, port)] for port in block.inputs]
    inputs = [_one(expected[feed], sample) for feed in feeds]
    titles = [_wire(feed) if feed.block else feed.port for feed in feeds]
    inside = block.inside(*inputs)
    return Fault(
        _wire(pin),
        netlist.graph.node(instance.node).where(),
        block.sv_module,
        rtl,
        *at,
        _value(expected[pin], grid, sample, row, column),
        _value(found[_wire(pin)], grid, sample, row, column),
        tuple(_operands(block, list(block.outputs).index(pin.port), inputs, titles, row, column)),
        None if inside is None else int(inside[0].reshape(-1, *_size(block, pin))[0, row, column]),
        None if inside is None else inside[1](column),
    )


def _size(block: Block, pin: Pin) -> tuple[int, int]:
    return block.outputs[pin.port].rows, block.outputs[pin.port].cols


def _one(code: Code, sample: int) -> Code:
    part = slice(sample, sample + 1)
    return Code(code.mantissa[part], None if code.exponent is None else code.exponent[part])


def _value(code: Code, grid: Grid, sample: int, row: int, column: int) -> Value:
    exponent = None if code.exponent is None else int(code.exponent[sample, row, column // grid.block])
    return Value(int(code.mantissa[sample, row, column]), exponent)


def _operands(
    block: Block, output: int, inputs: Sequence[Code], titles: Sequence[str], row: int, column: int
) -> list[Operand]:
    """Return the elements of the inputs that an element depends on: at the least or greatest code of one, it changes.

    What has no influence at these inputs, such as the factor of a weight of 0, is left out.
    """
    out = []
    for index, (title, stream) in enumerate(zip(titles, block.inputs.values(), strict=True)):
        count = stream.rows * stream.cols
        size = max(1, TRIED // sum(x.mantissa.numel() for x in inputs))
        for start in range(0, count, size):
            places = torch.arange(start, min(start + size, count))
            moved = torch.zeros(len(places), dtype=torch.bool)
            for value in (stream.grid.low, stream.grid.high):
                moved |= _moved(block, output, inputs, index, places, value, row, column)
            for place in places[moved].tolist():
                r, c = divmod(place, stream.cols)
                out.append(Operand(title, r, c, _value(inputs[index], stream.grid, 0, r, c)))
    return out


def _moved(
    block: Block,
    output: int,
    inputs: Sequence[Code],
    index: int,
    places: Tensor,
    value: int,
    row: int,
    column: int,
) -> Tensor:
    """Tell for each place of an input whether the element changes where that place holds another code."""
    count = len(places)
    many = [
        Code(
            x.mantissa.expand(count + 1, -1, -1).clone(),
            None if x.exponent is None else x.exponent.expand(count + 1, -1, -1).contiguous(),
        )
        for x in inputs
    ]
    many[index].mantissa.reshape(count + 1, -1)[torch.arange(count), places] = value  # the last one stays as it is
    given = block.compute(*many)[output]
    found = given.mantissa[:, row, column]
    moved: Tensor = found[:-1] != found[-1]
    if given.exponent is not None:
        grid = list(block.outputs.values())[output].grid
        exponent = given.exponent[:, row, column // grid.block]
        moved = moved | (exponent[:-1] != exponent[-1])
    return moved
