"""The manifest of an emitted folder: what the hardware is, and how to talk to it (``design.json``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from mase.dataflow.stream import StreamType
from mase.doors import json_text
from mase.errors import GraphError, MaseError
from mase.formats import Code, Format, QuantParams, parse

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Wire:
    """A stream of codes in the top.

    Args:
        name: unique in the design. path: module path of the node. signal: base name in the top module.
        shape: of one sample. stream: how codes become beats.
    """

    name: str
    path: str
    signal: str
    shape: tuple[int, ...]
    stream: StreamType

    def shaped(self, code: Code) -> Code:
        """Return codes with the sample's own shape; blocks lie along its last axis."""
        n = code.mantissa.shape[0]
        blocks = -(-self.shape[-1] // max(1, self.stream.grid.block))
        exponent = None if code.exponent is None else code.exponent.reshape(n, *self.shape[:-1], blocks)
        return Code(code.mantissa.reshape(n, *self.shape), exponent)


@dataclass(frozen=True, eq=False)
class Edge(Wire):
    """A named edge: codes that software and hardware agree on. Its name is that of the graph node that produces it.

    Args:
        format, params: how codes become reals.
    """

    format: Format
    params: QuantParams

    def encode(self, x: Tensor) -> Code:
        """Return the codes of real values ``[samples, *shape]``."""
        return self.format.encode(x, self.params)

    def decode(self, code: Code) -> Tensor:
        """Return real values, float64 ``[samples, *shape]``."""
        return self.format.decode(self.shaped(code), self.params)


@dataclass(frozen=True, eq=False)
class Design:
    """An emitted accelerator.

    Args:
        folder: where it lies. top: name of the top module. input_shape: of one sample, as the model takes it.
        edges: named edges in order; the first is the input, the last the output.
        manifest: the whole of ``design.json``.
        wires: what a simulation records instead of the named edges; none by default.
    """

    folder: Path
    top: str
    input_shape: tuple[int, ...]
    edges: tuple[Edge, ...]
    manifest: Mapping[str, Any]
    wires: tuple[Wire, ...] = ()

    @property
    def recorded(self) -> tuple[Wire, ...]:
        """Streams that a simulation records."""
        return self.wires or self.edges

    @property
    def input(self) -> Edge:
        """The edge that the host feeds."""
        return self.edges[0]

    @property
    def output(self) -> Edge:
        """The edge that the host reads."""
        return self.edges[-1]

    @property
    def sources(self) -> list[Path]:
        """SystemVerilog files of the core, in order of compilation."""
        return [self.folder / name for name in self.manifest["files"]["rtl"]]

    def encode(self, x: Tensor) -> Code:
        """Encode model inputs ``[samples, *input_shape]``."""
        if tuple(x.shape[1:]) != self.input_shape:
            raise GraphError(
                f"input: found {tuple(x.shape)}; allowed is (samples, {', '.join(map(str, self.input_shape))})"
            )
        return self.input.encode(x.reshape(x.shape[0], *self.input.shape))

    @classmethod
    def load(cls, folder: str | Path) -> Design:
        """Read ``design.json``.

        Raises:
            GraphError: it is missing, corrupt, or of another schema.
        """
        path = Path(folder) / "design.json"
        data = json_text.read(path, GraphError, "; `mase emit` writes it")
        json_text.check_schema(data, (SCHEMA,), str(path))
        manifest = json_text.checked(_Manifest, data, f"{path}: corrupt")
        try:
            edges = tuple(map(_edge, manifest.edges))
        except MaseError as error:
            raise GraphError(f"{path}: corrupt: {error}") from None
        if math.prod(manifest.input_shape) != math.prod(edges[0].shape):
            raise GraphError(
                f"{path}: corrupt: input_shape {manifest.input_shape}, but the stream has {edges[0].shape}"
            )
        return cls(Path(folder), manifest.top, manifest.input_shape, edges, data)


def edge_json(edge: Edge) -> dict[str, Any]:
    """Return the JSON form of an edge."""
    grid, stream = edge.stream.grid, edge.stream
    return {
        "name": edge.name,
        "path": edge.path,
        "signal": edge.signal,
        "shape": list(edge.shape),
        "format": str(edge.format),
        "scale": None if edge.params.scale is None else float(edge.params.scale),
        "base": None if edge.params.base is None else int(edge.params.base),
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
        "unit": grid.unit,
        "block": grid.block,
        "exp_base": grid.base,
        "exp_span": grid.span,
        "rounding": _rounding(edge.format),
    }


def _rounding(fmt: Format) -> str | None:
    """Return how a host without mase rounds into a format; None where that takes more than one rule."""
    mode: str = getattr(fmt, "rounding", "even")
    published: str = getattr(fmt, "compat", "")  # reproduces another tool, in its own way
    return None if published or mode == "stochastic" else mode


Sizes = Annotated[tuple[Annotated[int, Field(gt=0, lt=1 << 31)], ...], Field(min_length=1)]
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
    shape: Sizes
    format: str
    scale: Annotated[float, Field(gt=0)] | None
    base: Annotated[int, Field(gt=-1024, lt=1024)] | None
    rows: PositiveInt
    cols: PositiveInt
    lanes: PositiveInt


class _Instance(_Part):
    name: Name
    module: Name


class _Files(_Part):
    rtl: tuple[Place, ...]


class _Manifest(_Part):
    top: Name
    input_shape: Sizes
    edges: Annotated[tuple[_Stream, ...], Field(min_length=2)]
    instances: tuple[_Instance, ...]
    files: _Files


def _edge(data: _Stream) -> Edge:
    fmt = parse(data.format)
    if math.prod(data.shape) != data.rows * data.cols:
        raise GraphError(f"edge {data.name[:60]!r}: shape {data.shape} does not have {data.rows} rows of {data.cols}")
    scale = None if data.scale is None else torch.tensor(data.scale, dtype=torch.float64)
    params = QuantParams(scale=scale, base=None if data.base is None else torch.tensor(data.base))
    grid = fmt.grid(params, f"edge {data.name[:60]!r}")
    stream = StreamType(data.rows, data.cols, data.lanes, grid)
    return Edge(data.name, data.path, data.signal, data.shape, stream, fmt, params)
