"""Whether the graph computes what the ONNX file means: by its own nodes on two batches, and by the evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mase.errors import GraphError
from mase.frontend.onnx_batch import rows
from mase.frontend.onnx_builder import Builder, Constant, as_tensor
from mase.frontend.onnx_judge import Judge
from mase.graph import Graph, OpNode
from mase.interpreter import argument, run

BOUND = 1e-4  # of the greatest output: PyTorch and NumPy sum float32 in different orders
CLOSE = 1e-3  # of the greatest output: two batches may sum in another order
UNITS = 8  # of the least difference of 16-bit floats, whose steps each round: PyTorch and NumPy round sums elsewhere
ROWS = 2  # of the batch on which a file that leaves it open is compared


def bound_of(graph: Graph, least: float = BOUND) -> float:
    """Return how far results may be from the evaluator's, by the coarsest type that the graph computes in."""
    types = {node.record.output.dtype for node in graph.nodes()} & {"float16", "bfloat16"}
    return max([least, *(UNITS * torch.finfo(getattr(torch, name)).eps for name in types)])


def check_batch(graph: Graph, builder: Builder) -> None:
    """Refuse a file whose results do not follow axis 0 of its inputs, by what its nodes gave on two batches.

    Raises:
        GraphError: it is not a batch.
    """
    size, order, close = builder.batches[1], rows(*builder.batches), bound_of(graph, CLOSE)
    for name in builder.outputs:
        first, second = builder.samples[name]
        if second.shape != (size, *first.shape[1:]) or first.shape[:1] != builder.batches[:1]:
            raise GraphError(f"{builder.file}: a batch of {size} gives {tuple(second.shape)}; axis 0 is not a batch")
        if not graph.quant and relative(second, first[order]) > close:
            raise GraphError(f"{builder.file}: a sample's result depends on its batch; axis 0 is not a batch")
    feeds = [builder.samples[node.name][1] for node in graph.inputs]
    try:
        found = list(graph.fields(*feeds).values())
    except (RuntimeError, GraphError) as error:
        text = " ".join(str(error).split())[:160]
        raise GraphError(f"{builder.file}: cannot run on a batch of {size}: {text}") from error
    for name, value in zip(builder.outputs, found, strict=True):
        wanted = builder.samples[name][1]
        if value.shape != wanted.shape or (not graph.quant and relative(value, wanted) > close):
            raise GraphError(f"{builder.file}: {name}: the graph and its nodes give different values")


def distance(model: Any, graph: Graph, builder: Builder, merged: Mapping[str, str]) -> tuple[float | None, str]:
    """Return the greatest difference from the reference evaluator on two inputs, or None and why there is none.

    Args:
        merged: quantisers that other nodes took over, by name.

    Raises:
        GraphError: it is above the bound, or a quantiser gives another code.
    """
    worst, bound = 0.0, bound_of(graph)
    for seed in (0, 1):
        feeds = _feeds(graph, builder, seed)
        found, near = _found(graph, builder, feeds, merged)
        judge = Judge(model, bound, near, frozenset(feeds))
        try:
            wanted = judge.run({name: x.numpy() for name, x in feeds.items()})
        except GraphError as error:
            raise GraphError(f"{builder.file}: {error}") from None
        except Exception as error:  # noqa: BLE001  # the evaluator lacks operators, and raises errors of every kind
            return None, " ".join(str(error).split())[:160] or type(error).__name__
        worst = max(worst, *map(relative, found, map(as_tensor, wanted)))
    if not worst <= bound:
        told = f"by {worst:.1e} of the greatest output; allowed is {bound:.1e}"
        raise GraphError(f"{builder.file}: the graph differs from the reference evaluator {told}")
    return worst, ""


def _feeds(graph: Graph, builder: Builder, seed: int) -> dict[str, Tensor]:
    """Return inputs by name, other ones for each seed, with the batch that the file was written with."""
    generator = torch.Generator().manual_seed(seed)
    size, feeds = builder.written_batch or ROWS, {}
    for node in graph.inputs:
        x = builder.samples[node.name][0]
        if node.record.attrs["axes"][0]:
            x = x[torch.arange(size) % x.shape[0]]
        if x.is_floating_point():
            x = torch.randn(x.shape, generator=generator).to(x.dtype)
            x = _on_ties(x, graph, node) if seed else x
        feeds[argument(node)] = _flipped(x) if seed and not x.is_floating_point() else x
    return feeds


def _flipped(x: Tensor) -> Tensor:
    """Return elements in another order; PyTorch flips no unsigned numbers of more than 8 bits."""
    return torch.from_numpy(np.flip(x.numpy(), -1).copy())


def _on_ties(x: Tensor, graph: Graph, node: OpNode) -> Tensor:
    """Move an input that is quantised at once onto halves of its steps, where the words of rounding differ."""
    fmt = node.record.output.format
    users = [node, *node.users] if fmt is None else [node]
    for user in users:
        held, params = user.record.output.format, graph.params(user.name)
        if user.kind in ("input", "requantize") and held is not None:
            frac = getattr(held, "frac", None)
            step = params.scale if params.scale is not None else torch.tensor(2.0 ** -(frac or 0))
            if step.numel() == 1:
                half = step.reshape(()).double() / 2
                return ((x.double() * 4).round() * half).to(x.dtype)
    return x


def _found(
    graph: Graph, builder: Builder, feeds: Mapping[str, Tensor], merged: Mapping[str, str]
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the outputs of the graph, and what it has for each value that a quantiser of the file gives."""
    wanted = {name: merged.get(node, node) for name, node in builder.rounded.items()}
    seen: dict[str, Tensor] = {}

    def keep(node: OpNode, value: Tensor) -> None:
        if node.name in kept:
            seen[node.name] = value

    kept = set(wanted.values()) | {node.name for node in graph.output.inputs}
    run(graph, list(feeds.values()), observe=keep)
    near = {name: _as_file(builder, name, seen[node]) for name, node in wanted.items() if node in seen}
    constants = {name: value for name, value in builder.values.items() if name in builder.quantised}
    near |= {name: value.real().numpy() for name, value in constants.items() if isinstance(value, Constant)}
    return [seen[node.name] for node in graph.output.inputs], near


def _as_file(builder: Builder, name: str, value: Tensor) -> Any:
    """Return a value as the file has it: codes where these stand for it."""
    if name not in builder.codes:
        return value.numpy()
    scale, zero = builder.codes[name]
    return ((value.double() / scale.double()).round() + zero.double()).numpy()


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return the greatest difference, relative to the greatest value; infinite where the shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    found, wanted = found.double(), wanted.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    if bool(same.all()):
        return 0.0
    finite = wanted[wanted.isfinite()].abs()
    worst = (found - wanted)[~same].abs().max() / (finite.max() if finite.numel() else 1.0)
    return float(worst.nan_to_num(math.inf))
