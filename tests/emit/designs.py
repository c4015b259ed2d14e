"""Small networks with chosen or drawn sizes, formats and lanes, quantized and mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mase.dataflow.stream import StreamType
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import META, Graph, Record, typed
from mase.interpreter import run
from mase.netlist import build
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.proof import Case, joined

REAL, CORNERS = 6, 15  # samples of real data, and of codes drawn among the extremes


@dataclass(frozen=True, eq=False)
class Network:
    """A model with everything that decides its hardware.

    Args:
        layers: of a sequential model; node paths are their indices. x: real inputs.
        formats: of inputs, and by path. folding: lanes by path. fused: merge each linear layer with the ReLU after it.
        requantized: paths after which a requantize node stands, called ``<path>_requantize``.
    """

    name: str
    layers: Sequence[nn.Module]
    x: Tensor
    inputs: str
    formats: Mapping[str, NodeFormats]
    folding: Mapping[str, Folding] = field(default_factory=dict)
    fused: bool = True
    requantized: Sequence[str] = ()

    def traced(self) -> Graph:
        """Return the graph before it has formats."""
        graph, _ = trace_module(nn.Sequential(*self.layers).eval(), (self.x,))
        graph = fuse(graph)[0] if self.fused else graph
        return with_requantize(graph, self.requantized)

    def quantized(self) -> Graph:
        """Return the graph with formats, calibrated on the inputs."""
        return quantize.run(self.traced(), QuantizeConfig(overrides=self.formats, inputs=self.inputs), [self.x])[0]

    def case(self, folding: Mapping[str, Folding] | None = None, name: str = "") -> Case:
        """Return the mapped graph with its inputs: real ones, then corners. Lanes beyond a row are drawn on purpose."""
        config = MapConfig(folding=self.folding if folding is None else folding, wide=True)
        graph = map_graph(self.quantized(), config)[0]
        return Case(name or self.name, graph, fed(graph, self.x))


def with_requantize(graph: Graph, paths: Iterable[str]) -> Graph:
    """Return the graph with a requantize node after each of some nodes."""
    out, editable = graph.edited()
    for path in paths:
        before = out.node(path)
        with editable.inserting_after(before.node):
            node = editable.call_function(typed, (before.node,))
        node.name = f"{before.name}_requantize"
        node.meta = {META: Record("requantize", f"{path}_requantize", before.record.output)}
        before.node.replace_all_uses_with(node, delete_user_cb=lambda user, node=node: user is not node)
    return out.verify()


def fed(graph: Graph, x: Tensor) -> Code:
    """Return the codes of real inputs as the host encodes them, and corners after them; the interpreter must agree."""
    return fed_all(graph, (x,))[0]


def fed_all(graph: Graph, inputs: Sequence[Tensor]) -> tuple[Code, ...]:
    """Return the same for each of several inputs."""
    netlist, out = build(graph), list[Code]()
    values = run(graph, [x[:REAL] for x in inputs], keep=True)
    for seed, entry in enumerate(netlist.entries, 1):
        stream, shape = netlist.stream(entry), graph.node(entry).record.output.shape[1:]
        corner = stream.held(corners(stream, CORNERS, torch.Generator().manual_seed(seed)), shape)
        out.append(joined([values.codes[entry], corner]))
    return tuple(out)


def corners(stream: StreamType, count: int, generator: torch.Generator) -> Code:
    """Return random codes, a third of them extremes, a third zeros; exponents likewise; some samples all extreme."""
    grid, shape = stream.grid, (count, stream.rows, stream.cols)
    mantissa = _among(shape, grid.low, grid.high, generator)
    for sample, value in enumerate((grid.low, grid.high, 0)[:count]):
        mantissa[sample] = value
    if grid.signs is not None and not grid.signs.zero:
        mantissa = torch.where(mantissa < 0, -1, 1)  # a binary number is never 0
    exponent = None
    if grid.block:
        exponent = _among((*shape[:-1], -(-stream.cols // grid.block)), 0, grid.span, generator) + grid.base
    return Code(mantissa, exponent)


def _among(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Tensor:
    anything = torch.randint(low, high + 1, shape, generator=generator)
    ends = torch.where(torch.rand(shape, generator=generator) < 0.5, low, high)
    kind = torch.rand(shape, generator=generator)
    return torch.where(kind < 0.34, anything, torch.where(kind < 0.67, ends, max(low, min(0, high))))
