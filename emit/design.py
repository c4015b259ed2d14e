"""The manifest of an emitted folder: what the hardware is, and how to talk to it (``design.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mase.errors import GraphError
from mase.formats import Code, Format, QuantParams, parse
from mase.ops.grid import Grid
from mase.stream import StreamType

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Edge:
    """A named edge: codes that software and hardware agree on.

    Args:
        name: of the graph node that produces it. path: its module path. signal: base name in the top module.
        shape: of one sample. stream: how codes become beats. format, params: how codes become reals.
    """

    name: str
    path: str
    signal: str
    shape: tuple[int, ...]
    stream: StreamType
    format: Format
    params: QuantParams

    def encode(self, x: Tensor) -> Code:
        """Return the codes of real values ``[samples, *shape]``."""
        return self.format.encode(x, self.params)

    def decode(self, code: Code) -> Tensor:
        """Return real values, float64 ``[samples, *shape]``."""
        return self.format.decode(self.shaped(code), self.params)

    def shaped(self, code: Code) -> Code:
        """Return codes with the sample's own shape; blocks lie along its last axis."""
        n = code.mantissa.shape[0]
        blocks = -(-self.shape[-1] // max(1, self.stream.grid.block))
        exponent = None if code.exponent is None else code.exponent.reshape(n, *self.shape[:-1], blocks)
        return Code(code.mantissa.reshape(n, *self.shape), exponent)


@dataclass(frozen=True, eq=False)
class Design:
    """An emitted accelerator.

    Args:
        folder: where it lies. top: name of the top module. input_shape: of one sample, as the model takes it.
        edges: named edges in order; the first is the input, the last the output.
        manifest: the whole of ``design.json``.
    """

    folder: Path
    top: str
    input_shape: tuple[int, ...]
    edges: tuple[Edge, ...]
    manifest: Mapping[str, Any]

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
        try:
            data = json.loads(path.read_text())
            if not isinstance(data, dict) or data.get("schema") != SCHEMA:
                found = data.get("schema") if isinstance(data, dict) else type(data).__name__
                raise GraphError(f"{path}: schema {found}; this version reads schema {SCHEMA}")
            return cls(Path(folder), data["top"], tuple(data["input_shape"]), tuple(map(_edge, data["edges"])), data)
        except FileNotFoundError:
            raise GraphError(f"{path}: no such file; `mase emit` writes it") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise GraphError(f"{path}: corrupt: {repr(error)[:200]}") from None


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
    return None if mode == "stochastic" or getattr(fmt, "compat", "") else mode


def _edge(data: Mapping[str, Any]) -> Edge:
    fmt = parse(data["format"])
    scale = None if data["scale"] is None else torch.tensor(data["scale"], dtype=torch.float64)
    params = QuantParams(scale=scale, base=None if data["base"] is None else torch.tensor(data["base"]))
    grid = Grid.of(fmt, params, f"edge {data['name']!r}")
    stream = StreamType(data["rows"], data["cols"], data["lanes"], grid)
    return Edge(data["name"], data["path"], data["signal"], tuple(data["shape"]), stream, fmt, params)
