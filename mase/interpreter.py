"""Run a Graph: exact mode on integer codes, training mode with straight-through gradients (DESIGN 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mase.errors import GraphError
from mase.formats import Code
from mase.graph import Graph, OpNode
from mase.ops.base import OPS, HardwareOp


@dataclass
class Values:
    """Hold what a run computed, by edge name.

    Args:
        graph: the graph that ran.
        codes: codes of the edges that carry a format.
        reals: values of the edges that do not.
    """

    graph: Graph
    codes: dict[str, Code] = field(default_factory=dict)
    reals: dict[str, Tensor] = field(default_factory=dict)

    def real(self, name: str) -> Tensor:
        """Return the real values of an edge; float64 where codes stand behind them."""
        if name in self.reals:
            return self.reals[name]
        kind = self.graph.node(name).record.output
        assert kind.format is not None
        return kind.format.decode(self.codes[name], self.graph.params(name))


def is_exact(node: OpNode) -> bool:
    """Tell whether a node runs on integers: its operands and its result all carry formats, and it has a reference."""
    record = node.record
    if node.kind in ("input", "output", "opaque") or record.output.format is None:
        return False
    op = OPS[node.kind]
    if not issubclass(op, HardwareOp) or any(p.record.output.format is None for p in node.inputs):
        return False
    return all(t.format is not None for role, t in record.operands.items() if role not in op.implicit)


def run(graph: Graph, inputs: Sequence[Tensor], keep: bool = False, ops: dict[str, HardwareOp] | None = None) -> Values:
    """Run in exact mode.

    Args:
        graph: any graph; parts without formats run in float on decoded values.
        inputs: one tensor an input node; axis 0 is the batch.
        keep: keep the values of every edge, else only those still needed.
        ops: operators built before, by node name; missing ones are built and added.

    Raises:
        GraphError: the number or the shapes of the inputs are wrong.
    """
    check_inputs(graph, inputs)
    ops = {} if ops is None else ops
    values = Values(graph)
    last_use = {} if keep else {p.name: n.name for n in graph.nodes() for p in n.inputs}
    feed = iter(inputs)
    with torch.no_grad():
        for node in graph.nodes():
            if node.kind == "output":
                break
            if node.kind == "input":
                _store(values, node, next(feed))
            elif is_exact(node):
                if node.name not in ops:
                    ops[node.name] = OPS[node.kind].from_node(node)  # type: ignore[attr-defined]  # is_exact: hardware
                values.codes[node.name] = ops[node.name].reference(*(values.codes[p.name] for p in node.inputs))
            else:
                _store(values, node, _float(node, [values.real(p.name) for p in node.inputs]))
            for producer in node.inputs:
                if last_use.get(producer.name) == node.name:
                    values.codes.pop(producer.name, None)
                    values.reals.pop(producer.name, None)
    return values


def train(graph: Graph, inputs: Sequence[Tensor]) -> Tensor:
    """Run in training mode: float arithmetic, each formatted tensor rounded with a straight-through gradient."""
    check_inputs(graph, inputs)
    env: dict[str, Tensor] = {}
    feed = iter(inputs)
    for node in graph.nodes():
        if node.kind == "output":
            return env[node.inputs[0].name]
        x = next(feed) if node.kind == "input" else _float(node, [env[p.name] for p in node.inputs])
        fmt = node.record.output.format
        env[node.name] = x if fmt is None else fmt.quantize(x, graph.params(node.name))
    raise GraphError("the graph has no output node")


def check_inputs(graph: Graph, inputs: Sequence[Tensor]) -> None:
    """Refuse a wrong number of inputs or a shape that differs from the traced one in more than the batch."""
    expected = [node.record.output.shape for node in graph.inputs]
    if len(inputs) != len(expected):
        raise GraphError(f"inputs: found {len(inputs)} tensors; the graph takes {len(expected)}")
    for node, x in zip(graph.inputs, inputs, strict=True):
        shape = node.record.output.shape
        if tuple(x.shape[1:]) != shape[1:] or x.ndim != len(shape):
            allowed = ", ".join(map(str, shape[1:]))
            raise GraphError(f"input {node.name!r}: found {tuple(x.shape)}; allowed is (batch, {allowed})")


def _store(values: Values, node: OpNode, x: Tensor) -> None:
    fmt = node.record.output.format
    if fmt is None:
        values.reals[node.name] = x
    else:
        values.codes[node.name] = fmt.encode(x, values.graph.params(node.name))


def _float(node: OpNode, inputs: Sequence[Tensor]) -> Tensor:
    """Run one node in float, on parameters rounded to their formats."""
    if node.kind == "opaque":
        return _opaque(node, inputs)
    operands = {}
    for role, kind in node.record.operands.items():
        tensor = node.tensor(role)
        operands[role] = tensor if kind.format is None else kind.format.quantize(tensor, node.params(role))
    if inputs and operands:
        wide = next(iter(operands.values())).dtype
        inputs = [x.to(wide) if x.is_floating_point() else x for x in inputs]
    return OPS[node.kind].float(node.record, operands, *inputs)


def _opaque(node: OpNode, inputs: Sequence[Tensor]) -> Tensor:
    """Run a node as it was traced, with module parameters taken from the table."""
    fx_node, feed = node.node, iter(inputs)
    env = {producer: next(feed) for producer in fx_node.all_input_nodes}
    args, kwargs = torch.fx.node.map_arg((fx_node.args, fx_node.kwargs), lambda n: env[n])
    if fx_node.op == "call_module":
        module = node.graph.module.get_submodule(str(fx_node.target))
        prefix = f"{fx_node.target}."
        state = {k.removeprefix(prefix): v for k, v in node.graph.tensors.items() if k.startswith(prefix)}
        result: Tensor = torch.func.functional_call(module, state, args, kwargs)
        return result
    if fx_node.op == "get_attr":
        return node.graph.tensors[str(fx_node.target)]
    if fx_node.op == "call_method":
        result = getattr(args[0], str(fx_node.target))(*args[1:], **kwargs)
        return result
    assert callable(fx_node.target)
    result = fx_node.target(*args, **kwargs)
    return result
