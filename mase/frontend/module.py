"""Trace a plain ``nn.Module`` into a Graph: an fx tracer that keeps known modules whole and types what it knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from mase.errors import GraphError
from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed

OWN = str(Path(torch.__file__).parent)  # frames below it are not the user's


@dataclass(frozen=True)
class TraceReport:
    """Say what became of the model's operations.

    Args:
        lifted: paths that became typed nodes. opaque: paths that stay as traced, with the reason.
    """

    lifted: tuple[str, ...] = ()
    opaque: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.lifted)} typed nodes, {len(self.opaque)} opaque"]
        return "\n".join(lines + [f"  opaque {path}: {reason}" for path, reason in self.opaque.items()])


class ModuleTracer(fx.Tracer):
    """Trace through containers and the user's own modules; keep PyTorch's modules whole; record source lines."""

    def __init__(self) -> None:
        super().__init__()
        self.record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def trace_module(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[Graph, TraceReport]:
    """Trace, give every node its record, and check the graph against the model.

    Args:
        model: in evaluation mode. inputs: one example tensor an argument; axis 0 is the batch.

    Raises:
        GraphError: the model trains, has data-dependent control flow, or its graph does not compute what it computes.
    """
    check_model(model, inputs)
    try:
        graph = ModuleTracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise GraphError(f"{type(model).__name__}: cannot be traced: {first_line(error)}") from error
    _drop_unused_inputs(graph, len(inputs))
    module = NodeGraph(model, graph)
    try:
        with torch.no_grad():
            ShapeProp(module).propagate(*inputs)
    except Exception as error:  # the model's own code runs here and may raise anything
        raise GraphError(f"{type(model).__name__}: fails on the example inputs: {first_line(error)}") from error
    tensors = dict(named_tensors(model))
    lifted, opaque = [], {}
    for node in list(graph.nodes):
        record = _record(node, module)
        if record.kind == "opaque":
            opaque[record.path] = "no typed kind for it yet"
        elif record.kind not in ("input", "output"):
            lifted.append(record.path)
            record = _lift(graph, node, record, tensors)
            continue
        node.meta = {META: record}
    graph.eliminate_dead_code()
    alive = {node.meta[META].path for node in graph.nodes}
    opaque = {path: why for path, why in opaque.items() if path in alive}
    traced = Graph(NodeGraph(model, graph), tensors).verify()
    check_against(traced, model, inputs)
    return traced, TraceReport(tuple(lifted), opaque)


def check_model(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Refuse training mode, NaN parameters and inputs that are not tensors."""
    training = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if training:
        raise GraphError(f"module {training[0]!r}: is in training mode; call model.eval() before tracing")
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GraphError(f"parameter {name!r}: holds NaN or infinity; finite weights are needed")
    if not inputs or any(x.ndim < 1 for x in inputs):
        raise GraphError("example inputs: a tuple of tensors with a batch axis is needed")


def check_against(graph: Graph, model: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Compare with eager on the sample and on a second random input, bit for bit.

    Raises:
        GraphError: they differ; says by how much.
    """
    generator = torch.Generator().manual_seed(0)
    second = [
        torch.randn(x.shape, generator=generator).to(x.dtype) if x.is_floating_point() else x.flip(0) for x in inputs
    ]
    for which, sample in (("the example", inputs), ("a second input", second)):
        with torch.no_grad():
            want, got = model(*sample), graph(*sample)
        if want.shape != got.shape or not torch.equal(want, got.to(want.dtype)):
            worst = float((want - got).abs().max()) if want.shape == got.shape else "shape"
            raise GraphError(f"{type(model).__name__}: the traced graph differs from the model on {which} by {worst}")


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers by path, detached, sharing memory; a tied tensor appears under each of its names."""
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [(name, tensor.detach()) for name, tensor in pairs]


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut at 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _drop_unused_inputs(graph: fx.Graph, given: int) -> None:
    """Remove trailing optional arguments that the caller does not give."""
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    for node in holders[given:]:
        if node.users or not node.args:
            raise GraphError(
                f"example inputs: found {given}; the model takes {len(holders)} ({node.target!r} is missing)"
            )
        graph.erase_node(node)


def _source(node: fx.Node) -> str:
    """Return ``file:line`` of the innermost frame that is not PyTorch's."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(file, line) for file, line in frames if not file.startswith(OWN)]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _type(node: fx.Node) -> TensorType:
    """Return what a node produces: by its record where it has one already, else as shape propagation saw it."""
    if META in node.meta:
        record: Record = node.meta[META]
        return record.output
    meta = node.meta.get("tensor_meta")
    if meta is None or not hasattr(meta, "shape"):
        return TensorType((), "none")
    return TensorType(tuple(meta.shape), str(meta.dtype).removeprefix("torch."))


def _record(node: fx.Node, module: fx.GraphModule) -> Record:
    """Give a traced node its record; what is not known is opaque."""
    source, output = _source(node), _type(node)
    if node.op == "placeholder":
        return Record("input", node.name, output)
    if node.op == "output":
        if not isinstance(node.args[0], fx.Node):
            raise GraphError("the model returns more than one tensor; one tensor is needed")
        return Record("output", node.name, _type(node.args[0]))
    if node.op == "call_module":
        target = module.get_submodule(str(node.target))
        for cls, lift in MODULES.items():
            if type(target) is cls:
                kind, attrs, operands = lift(target, output)
                return Record(kind, str(node.target), output, attrs, operands, source)
        return Record("opaque", str(node.target), output, {"target": type(target).__name__}, source=source)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if name == "relu" and len(node.all_input_nodes) == 1:
        return Record("activation", node.name, output, {"function": "relu"}, source=source)
    if name in ("flatten", "reshape", "view") and _is_layout(node):
        return Record("layout", node.name, output, {"shape": list(output.shape[1:])}, source=source)
    return Record("opaque", node.name, output, {"target": str(name)}, source=source)


def _is_layout(node: fx.Node) -> bool:
    """Tell whether a reshape to constants, or to sizes of tensors, keeps the batch axis and every element's order."""
    data, *sizes = node.all_input_nodes
    if any(_type(size).dtype != "none" for size in sizes):
        return False
    before, after = _type(data).shape, _type(node).shape
    return len(before) > 1 and len(after) > 1 and before[0] == after[0]


def _linear(m: nn.Linear, output: TensorType) -> tuple[str, dict[str, Any], dict[str, TensorType]]:
    operands = {"weight": _param(m.weight)}
    if m.bias is not None:
        operands["bias"] = _param(m.bias)
    return "linear", {}, operands


def _relu(m: nn.ReLU, output: TensorType) -> tuple[str, dict[str, Any], dict[str, TensorType]]:
    return "activation", {"function": "relu"}, {}


def _flatten(m: nn.Module, output: TensorType) -> tuple[str, dict[str, Any], dict[str, TensorType]]:
    start = m.start_dim if isinstance(m, nn.Flatten) else 1
    kind = "layout" if start >= 1 and len(output.shape) > 1 else "opaque"
    return kind, {"shape": list(output.shape[1:])}, {}


def _param(tensor: Tensor) -> TensorType:
    return TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


Lift = Callable[[Any, TensorType], tuple[str, dict[str, Any], dict[str, TensorType]]]
MODULES: dict[type[nn.Module], Lift] = {
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
    nn.Unflatten: _flatten,
}


def _lift(graph: fx.Graph, node: fx.Node, record: Record, tensors: Mapping[str, Tensor]) -> Record:
    """Replace a traced node by a typed one that carries the record."""
    missing = [role for role in record.operands if record.key(role) not in tensors]
    assert not missing, missing
    with graph.inserting_before(node):
        new = graph.call_function(typed, tuple(node.all_input_nodes)[:1])  # more are sizes of a reshape
    name, new.meta = node.name, {META: record}
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    new.name = name
    return record
