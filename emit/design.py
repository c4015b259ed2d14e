"""The manifest of an emitted folder: what the hardware is, and how to talk to it (``design.json``)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from mase.dataflow.stream import StreamType, Travel
from mase.doors import json_text
from mase.errors import GraphError, MaseError
from mase.formats import Code, Format, QuantParams, parse
from mase.formats.block_scales import BlockScales
from mase.formats.grid import Grid, Pattern
from mase.interpreter import Batch, by_name

SCHEMA = 2
Direction = Literal["in", "out"]


@dataclass(frozen=True, eq=False)
class Wire:
    """A stream of codes in the top.

    Args:
        name: unique in the design. path: module path of the node. signal: base name in the top module.
        shape: of one sample. stream: how codes become beats, and in which order elements travel.
    """

    name: str
    path: str
    signal: str
    shape: tuple[int, ...]
    stream: StreamType

    def shaped(self, code: Code) -> Code:
        """Return codes as the tensor holds them, from ``[samples, rows, cols]`` as they travel."""
        return self.stream.held(code, self.shape)


@dataclass(frozen=True, eq=False)
class Edge(Wire):
    """A named edge: codes that software and hardware agree on. Its name is that of the graph node that produces it.

    Args:
        format, params: how codes become reals. sources: names of the edges that it comes from.
    """

    format: Format
    params: QuantParams
    sources: tuple[str, ...] = ()

    @property
    def travel(self) -> Travel:
        """How the elements of a sample come to travel."""
        return self.stream.travel or Travel.of(self.shape)

    @property
    def axis(self) -> int:
        """Axis of codes ``[samples, *shape]`` along which blocks lie."""
        return self.params.axis % (1 + len(self.shape))

    def encode(self, x: Tensor) -> Code:
        """Return the codes of real values ``[samples, *shape]``."""
        return self.format.encode(x, self.params).on_stream()

    def decode(self, code: Code) -> Tensor:
        """Return real values, float64 ``[samples, *shape]``, from codes as the tensor holds them."""
        return self.format.decode(code, self.params)

    def exponents(self, code: Code) -> Tensor:
        """Return the exponent of each element ``[samples, *shape]``, of codes as the tensor holds them."""
        block = self.stream.grid.block
        rows = self.travel.travelling(code, block).exponent
        assert rows is not None
        spread = rows.repeat_interleave(block, -1)[..., : self.stream.cols]
        return self.travel.held(Code(spread), self.shape).mantissa

    def beat(self, element: int) -> int:
        """Return the beat of a sample that carries an element, by its flat index."""
        axes, order = self.travel
        at = np.unravel_index(element, axes)
        place = int(np.ravel_multi_index([at[i] for i in order], [axes[i] for i in order]))
        row, col = divmod(place, self.stream.cols)
        return row * self.stream.row_beats + col // self.stream.lanes


@dataclass(frozen=True, eq=False)
class Port:
    """A stream of the top module, and the tensor of the model that it carries.

    Args:
        name: base name of its signals: ``in`` of ``in_valid_i``. tensor: the model's name of what it carries.
        shape: of one sample, as the model takes or gives it. edge: how its codes travel.
        axis: base name of its signals on the AXI4-Stream wrapper. axis_bytes: of ``tdata`` there.
    """

    name: str
    direction: Direction
    tensor: str
    shape: tuple[int, ...]
    edge: Edge
    axis: str
    axis_bytes: int

    @property
    def stream(self) -> StreamType:
        """How codes become beats."""
        return self.edge.stream


@dataclass(frozen=True, eq=False)
class Ends:
    """The streams of a top module, in the order of the model's inputs and outputs."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def all(self) -> tuple[Port, ...]:
        """All streams, inputs first."""
        return *self.inputs, *self.outputs

    @property
    def single(self) -> bool:
        """Tell whether there is one input and one output."""
        return len(self.all) == 2


@dataclass(frozen=True, eq=False)
class Design:
    """An emitted accelerator.

    Args:
        folder: where it lies. top: name of the top module. ends: its streams.
        edges: named edges, each behind those that it comes from. manifest: the whole of ``design.json``.
        wires: what a simulation records instead of the named edges; none by default.
    """

    folder: Path
    top: str
    ends: Ends
    edges: tuple[Edge, ...]
    manifest: Mapping[str, Any]
    wires: tuple[Wire, ...] = ()

    @property
    def recorded(self) -> tuple[Wire, ...]:
        """Streams that a simulation records."""
        return self.wires or self.edges

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Streams that the host feeds."""
        return self.ends.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Streams that the host reads."""
        return self.ends.outputs

    @property
    def input(self) -> Edge:
        """The edge that the host feeds; the first one where there are several."""
        return self.inputs[0].edge

    @property
    def output(self) -> Edge:
        """The edge that the host reads; the first one where there are several."""
        return self.outputs[0].edge

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """What people call each edge, by its name: its path, with more where several edges have one."""
        fed, paths = {port.edge.name for port in self.inputs}, Counter(edge.path for edge in self.edges)
        told = {e.name: f"{e.path} (input)" if paths[e.path] > 1 and e.name in fed else e.path for e in self.edges}
        again = Counter(told.values())
        return {name: text if again[text] == 1 else f"{text} ({name})" for name, text in told.items()}

    @property
    def sources(self) -> list[Path]:
        """SystemVerilog files of the core, in order of compilation."""
        return [self.folder / name for name in self.manifest["files"]["rtl"]]

    def encode(self, batch: Batch) -> tuple[Code, ...]:
        """Encode model inputs ``[samples, *shape]``: a tensor, one tensor an input, or tensors by name.

        Raises:
            GraphError: one is missing, unknown, of another shape, or has another number of samples.
        """
        tensors = self.unpacked(batch)
        for port, x in zip(self.inputs, tensors, strict=True):
            where = "input" if len(tensors) == 1 else f"input {port.tensor!r}"
            if tuple(x.shape[1:]) != port.shape:
                allowed = f"(samples, {', '.join(map(str, port.shape))})"
                raise GraphError(f"{where}: found {tuple(x.shape)}; allowed is {allowed}")
            if x.shape[0] != tensors[0].shape[0]:
                first = self.inputs[0].tensor
                raise GraphError(f"{where}: found {x.shape[0]} samples; {first!r} has {tensors[0].shape[0]}")
        pairs = zip(self.inputs, tensors, strict=True)
        return tuple(port.edge.encode(x.reshape(x.shape[0], *port.edge.shape)) for port, x in pairs)

    def unpacked(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return one tensor an input of a batch.

        Raises:
            GraphError: one is missing or unknown.
        """
        names = [port.tensor for port in self.inputs]
        if isinstance(batch, Mapping):
            return by_name(names, batch)
        found = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        if len(found) != len(names):
            raise GraphError(f"inputs: found {len(found)} tensors; the design takes {len(names)}: {', '.join(names)}")
        return found

    @classmethod
    def load(cls, folder: str | Path) -> Design:
        """Read ``design.json``.

        Raises:
            GraphError: it is missing, corrupt, or of another schema.
        """
        path = Path(folder) / "design.json"
        data = json_text.read(path, GraphError, "; `mase emit` writes it")
        if isinstance(data, dict) and data.get("schema") == 1:
            raise GraphError(
                f"{path}: schema 1 does not say in which order elements travel, nor which port carries what; allowed "
                f"is schema {SCHEMA}: emit the graph again (`mase emit`)"
            )
        json_text.check_schema(data, (SCHEMA,), str(path))
        manifest = json_text.checked(_Manifest, data, f"{path}: corrupt")
        try:
            edges = tuple(map(_edge, manifest.edges))
            ports = _ports(manifest, {edge.name: edge for edge in edges})
        except MaseError as error:
            raise GraphError(f"{path}: corrupt: {error}") from None
        ins, outs = (tuple(port for port in ports if port.direction == way) for way in ("in", "out"))
        if not ins or not outs:
            raise GraphError(f"{path}: corrupt: has {len(ins)} inputs and {len(outs)} outputs; allowed is 1 or more")
        return cls(Path(folder), manifest.top, Ends(ins, outs), edges, data)


def edge_json(edge: Edge) -> dict[str, Any]:
    """Return the JSON form of an edge."""
    grid, stream, params = edge.stream.grid, edge.stream, edge.params
    return {
        "name": edge.name,
        "path": edge.path,
        "signal": edge.signal,
        "from": list(edge.sources),
        "shape": list(edge.shape),
        "format": str(edge.format),
        "scale": None if params.scale is None else float(params.scale),
        "zero_point": None if params.zero_point is None else int(params.zero_point),
        "base": None if params.base is None else int(params.base),
        "threshold": None if params.threshold is None else float(params.threshold),
        "axis": edge.axis,
        "axes": list(edge.travel.axes),
        "order": list(edge.travel.order),
        "rows": stream.rows,
        "cols": stream.cols,
        "lanes": stream.lanes,
        "beats": stream.beats,
        "beat_bits": stream.bits,
        "beat_bytes": stream.bytes,
        "width": grid.width,
        "signed": grid.signed,
        "exponents": stream.exponents,
        "exp_bits": grid.exp_bits,
        "low": grid.low,
        "high": grid.high,
        "zero": grid.zero,
        "unit": grid.unit,
        "block": grid.block,
        "exp_base": grid.base,
        "exp_span": grid.span,
        "pattern": _pattern(grid.pattern),
        "scales": None if grid.scales is None else _scales(grid.scales),
        "rounding": _rounding(edge.format, grid),
    }


def port_json(port: Port) -> dict[str, Any]:
    """Return the JSON form of a port."""
    entry = {name: getattr(port, name) for name in ("name", "direction", "tensor", "axis", "axis_bytes")}
    return {**entry, "shape": list(port.shape), "edge": port.edge.name}


def _pattern(pattern: Pattern | None) -> dict[str, int] | None:
    """Return how a code is read that is not an integer."""
    if pattern is None:
        return None
    return {name: int(getattr(pattern, name)) for name in ("exp", "man", "top", "subnormal")}


def _scales(scales: BlockScales) -> dict[str, int]:
    """Return how a scale of a block is read: a pattern, in a unit of its own."""
    found = _pattern(scales.scale)
    assert found is not None
    return {**found, "unit": scales.scale_unit}


def _rounding(fmt: Format, grid: Grid) -> str | None:
    """Return how a host without mase rounds into a format; None where that takes more than one rule."""
    mode: str = getattr(fmt, "rounding", "even")
    published: str = getattr(fmt, "compat", "")  # reproduces another tool, in its own way
    several = grid.pattern is not None or grid.lift or grid.rise or grid.signs
    return None if published or mode == "stochastic" or several else mode


Size = Annotated[int, Field(gt=0, lt=1 << 31)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*$", max_length=1024)]  # a word of SystemVerilog
Place = Annotated[
    str, Field(pattern=r"^(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*$")
]  # below the folder


class _Part(BaseModel):
    """What is read of ``design.json``; the rest is for people and other programs."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class _Stream(_Part):
    name: str
    path: str
    signal: Name
    shape: tuple[Size, ...]  # none where a sample is one number
    format: str
    sources: tuple[str, ...] = Field(alias="from")
    scale: Annotated[float, Field(gt=0)] | None
    zero_point: Annotated[int, Field(gt=-(1 << 31), lt=1 << 31)] | None
    base: Annotated[int, Field(gt=-1024, lt=1024)] | None
    threshold: Annotated[float, Field(ge=0)] | None = None
    axis: NonNegativeInt  # 0 where a sample is one number
    axes: Sizes
    order: tuple[int, ...]
    rows: PositiveInt
    cols: PositiveInt
    lanes: PositiveInt


class _Port(_Part):
    name: Name
    direction: Direction
    tensor: str
    shape: tuple[Size, ...]  # none where a sample is one number
    edge: str
    axis: Name
    axis_bytes: PositiveInt


class _Instance(_Part):
    name: Name
    module: Name


class _Files(_Part):
    rtl: tuple[Place, ...]


class _Manifest(_Part):
    top: Name
    ports: Annotated[tuple[_Port, ...], Field(min_length=2)]
    edges: Annotated[tuple[_Stream, ...], Field(min_length=2)]
    instances: tuple[_Instance, ...]
    files: _Files


def _edge(data: _Stream) -> Edge:
    fmt, where = parse(data.format), f"edge {data.name[:60]!r}"
    travel = Travel(data.axes, data.order)
    if math.prod(data.shape) != data.rows * data.cols:
        raise GraphError(f"{where}: shape {data.shape} does not have {data.rows} rows of {data.cols}")
    if sorted(data.order) != list(range(len(data.axes))) or (travel.rows, travel.cols) != (data.rows, data.cols):
        raise GraphError(f"{where}: axes {data.axes} in order {data.order} are not {data.rows} rows of {data.cols}")
    if not min(1, len(data.shape)) <= data.axis <= len(data.shape):
        raise GraphError(f"{where}: blocks lie along axis {data.axis}; allowed is 1 to {len(data.shape)}")
    scale, threshold = (
        None if value is None else torch.tensor(value, dtype=torch.float64) for value in (data.scale, data.threshold)
    )
    zero, base = (None if value is None else torch.tensor(value) for value in (data.zero_point, data.base))
    params = QuantParams(scale=scale, zero_point=zero, base=base, threshold=threshold, axis=data.axis)
    stream = StreamType(data.rows, data.cols, data.lanes, fmt.grid(params, where), travel)
    return Edge(data.name, data.path, data.signal, data.shape, stream, fmt, params, data.sources)


def _ports(manifest: _Manifest, edges: Mapping[str, Edge]) -> list[Port]:
    out = list[Port]()
    for data in manifest.ports:
        if data.edge not in edges:
            raise GraphError(f"port {data.name[:60]!r}: carries {data.edge[:60]!r}, which is not an edge")
        edge = edges[data.edge]
        if math.prod(data.shape) != math.prod(edge.shape):
            raise GraphError(f"port {data.name[:60]!r}: shape {data.shape}, but the stream has {edge.shape}")
        out.append(Port(data.name, data.direction, data.tensor, data.shape, edge, data.axis, data.axis_bytes))
    return out
