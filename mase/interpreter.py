"""Run a Graph: exact mode on integer codes, training mode with straight-through gradients (docs/design.md, "Graph")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mase.aten import guard
from mase.errors import GraphError, UnsupportedOp, suggest
from mase.formats import Code
from mase.formats.base import narrowed
from mase.graph import Graph, OpNode
from mase.lowering import Lowering
from mase.ops.base import OPS, HardwareOp, builds


@dataclass
class Values:
    """Hold what a run computed, by edge name.

    Args:
        graph: the graph that ran.
        codes: codes of the edges that carry a format.
        reals: values of the edges that do not; of some opaque nodes numbers or tuples.
    """

    graph: Graph
    codes: dict[str, Code] = field(default_factory=dict)
    reals: dict[str, Tensor] = field(default_factory=dict)

    def real(self, name: str) -> Tensor:
        """Return the real values of an edge; float64 where codes stand behind them, or the integers that they are."""
        if name in self.reals:
            return self.reals[name]
        kind = self.graph.node(name).record.output
        assert kind.format is not None
        real, dtype = kind.format.decode(self.codes[name], self.graph.params(name)), getattr(torch, kind.dtype)
        return real if dtype.is_floating_point else real.to(dtype)

    def traced(self, node: OpNode) -> Tensor:
        """Return the real values of an edge in the dtype that it was traced with, as float arithmetic takes them."""
        if node.name in self.reals:
            return self.reals[node.name]
        real = self.real(node.name)
        return narrowed(real, getattr(torch, node.record.output.dtype)) if real.is_floating_point() else real


def is_exact(node: OpNode) -> bool:
    """Tell whether a node runs on integers: it has a reference, and all its tensors carry formats that hardware has."""
    if not has_formats(node):
        return False
    op = OPS[node.kind]
    assert issubclass(op, HardwareOp)
    try:
        op.check_formats(node)
    except UnsupportedOp:
        return False
    return True


def has_formats(node: OpNode) -> bool:
    """Tell whether a node is of a kind that has hardware, and its operands and its result all carry formats."""
    record = node.record
    if record.output.format is None or not builds(node):
        return False
    op = OPS[node.kind]
    assert issubclass(op, HardwareOp)
    if any(p.record.output.format is None for p in node.inputs):
        return False
    return all(t.format is not None for role, t in record.operands.items() if role not in op.implicit)


def run(
    graph: Graph,
    inputs: Sequence[Tensor],
    keep: bool = False,
    lowering: Lowering | None = None,
    observe: Callable[[OpNode, Tensor], None] | None = None,
) -> Values:
    """Run in exact mode.

    Args:
        graph: any graph; parts without formats run in float on decoded values.
        inputs: one tensor an input node.
        keep: keep the values of every edge, else only those still needed.
        lowering: keeps operators; one that serves several runs builds them once.
        observe: is called with each node and its real values as soon as they are there.

    Raises:
        GraphError: the number or the shapes of the inputs are wrong.
    """
    check_inputs(graph, inputs)
    lowered, values = (lowering or Lowering()).of(graph), Values(graph)
    last_use = {} if keep else {p.name: n.name for n in graph.nodes() for p in n.inputs}
    feed = iter(inputs)
    with torch.no_grad():
        for node in graph.nodes():
            if node.kind == "output":
                break
            with _named(node):
                if node.kind == "input":
                    _store(values, node, _as_traced(node, next(feed)))
                elif is_exact(node):
                    values.codes[node.name] = lowered.op(node).reference(*(values.codes[p.name] for p in node.inputs))
                else:
                    _store(values, node, _float(node, [values.traced(p) for p in node.inputs]))
            if observe is not None:
                observe(node, values.real(node.name))
            for producer in node.inputs:
                if last_use.get(producer.name) == node.name:
                    values.codes.pop(producer.name, None)
                    values.reals.pop(producer.name, None)
    return values


def train(graph: Graph, inputs: Sequence[Tensor]) -> Tensor:
    """Run in training mode: float arithmetic, each formatted tensor rounded with a straight-through gradient.

    Returns:
        the first output; :func:`train_all` gives all.
    """
    return train_all(graph, inputs)[0]


def train_all(graph: Graph, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Do as :func:`train`, and return every output."""
    check_inputs(graph, inputs)
    env: dict[str, Tensor] = {}
    feed = iter(inputs)
    for node in graph.nodes():
        if node.kind == "output":
            return tuple(env[end.name] for end in node.inputs)
        if node.kind == "input":
            x = next(feed)
            x = x.to(getattr(torch, node.record.output.dtype)) if x.is_floating_point() else x
        else:
            x = _float(node, [env[p.name] for p in node.inputs])
        fmt = node.record.output.format
        if fmt is None or not x.is_floating_point():  # an index is what it is
            env[node.name] = x
        else:
            env[node.name] = fmt.quantize(x, graph.params(node.name))
    raise GraphError("the graph has no output node")


def bind(graph: Graph, inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Return one tensor an input node, in order: first those without a name, then those by name.

    Raises:
        GraphError: a name is unknown or given twice, or an input is missing.
    """
    if not named:
        return tuple(inputs)
    names = [argument(node) for node in graph.inputs]
    for name in named:
        if name in names[: len(inputs)]:
            raise GraphError(f"input {name!r}: is given twice, by place and by name")
    return (*inputs, *by_name(names[len(inputs) :], named, names))


def by_name(names: Sequence[str], named: Mapping[str, Tensor], known: Sequence[str] = ()) -> tuple[Tensor, ...]:
    """Return the tensors of some inputs in order.

    Args:
        known: names of all inputs; those of ``names`` by default.

    Raises:
        GraphError: a name is unknown, or an input is missing.
    """
    known = known or names
    for name in named:
        if name not in known:
            raise GraphError(f"input {name!r}: the graph has no input of this name{suggest(name, known)}")
    missing = [name for name in names if name not in named]
    if missing:
        raise GraphError(f"input {missing[0]!r}: is missing; the graph takes {', '.join(known)}")
    return tuple(named[name] for name in names)


Batch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def unpacked(graph: Graph, batch: Batch) -> tuple[Tensor, ...]:
    """Return one tensor an input node, of a batch that is a tensor, one tensor an input, or tensors by name."""
    if isinstance(batch, Mapping):
        return bind(graph, (), batch)
    return tuple(batch) if isinstance(batch, Sequence) else (batch,)


def argument(node: OpNode) -> str:
    """Return the model's name for an input."""
    return str(node.record.attrs.get("argument", node.name))


def check_inputs(graph: Graph, inputs: Sequence[Tensor]) -> None:
    """Refuse a wrong number of inputs, or a shape that differs from the traced one in an axis that is not free."""
    nodes = graph.inputs
    if len(inputs) != len(nodes):
        raise GraphError(f"inputs: found {len(inputs)} tensors; the graph takes {len(nodes)}")
    sizes: dict[str, tuple[int, str]] = {}  # of the free axes, and who said so
    for node, x in zip(nodes, inputs, strict=True):
        kind = node.record.output
        names = axes(node)
        if not isinstance(x, Tensor):
            raise GraphError(f"input {argument(node)!r}: found {type(x).__name__}; allowed is a tensor")
        if x.ndim != len(kind.shape) or any(not n and x.shape[i] != kind.shape[i] for i, n in enumerate(names)):
            allowed = ", ".join(name or str(size) for name, size in zip(names, kind.shape, strict=True))
            raise GraphError(f"input {argument(node)!r}: found {tuple(x.shape)}; allowed is ({allowed})")
        if x.is_floating_point() != kind.dtype.startswith(("float", "bfloat")):
            found = str(x.dtype).removeprefix("torch.")
            raise GraphError(f"input {argument(node)!r}: found {found}; allowed is {kind.dtype}")
        for name, size in zip(names, x.shape, strict=True):
            known, other = sizes.setdefault(name, (size, argument(node)))
            if name and known != size:
                raise GraphError(f"input {argument(node)!r}: {name} is {size}; in input {other!r} it is {known}")


def axes(node: OpNode) -> list[str]:
    """Return a name for each axis of an input that is free, and ``""`` for each that is as it was traced."""
    kind = node.record.output
    default = ["batch", *[""] * (len(kind.shape) - 1)] if kind.shape else []
    return list(node.record.attrs.get("axes", default))


def _as_traced(node: OpNode, x: Tensor) -> Tensor:
    """Return an input in the traced dtype; one with a format is rounded from what it is."""
    kind = node.record.output
    return x if kind.format is not None or not x.is_floating_point() else x.to(getattr(torch, kind.dtype))


def _store(values: Values, node: OpNode, x: Tensor) -> None:
    fmt = node.record.output.format
    if fmt is None:
        values.reals[node.name] = x
    else:
        x = x if x.is_floating_point() else x.to(torch.float64)  # an index
        values.codes[node.name] = fmt.encode(x, values.graph.params(node.name)).on_stream()


@contextmanager
def _named(node: OpNode) -> Iterator[None]:
    """Name the node where values do not suit it, such as an id beyond a table, or attributes that a file gave it."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{node.where()}: cannot run on these values: {text[:200]}") from error


def _float(node: OpNode, inputs: Sequence[Tensor]) -> Tensor:
    """Run one node in float, on parameters rounded to their formats."""
    if node.kind == "opaque":
        return _opaque(node, inputs)
    operands: dict[str, Tensor] = {}
    for role, kind in node.record.operands.items():
        tensor = node.tensor(role)
        operands[role] = tensor if kind.format is None else kind.format.quantize(tensor, node.params(role))
    if node.name in node.graph.bodies:
        return _outlined(node, operands, inputs)
    return OPS[node.kind].float(node.record, operands, *inputs)


def _outlined(node: OpNode, operands: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """Run the body of a node on the node's own parameters, rounded where they have formats."""
    body, record = node.graph.bodies[node.name], node.record
    rounded = {record.key(role): operands[role] for role, kind in record.operands.items() if kind.format is not None}
    if rounded:
        body = body.on({**body.tensors, **rounded})
    if torch.is_grad_enabled():  # in training
        return train(body, inputs)
    return run(body, inputs).traced(body.output.inputs[0])


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
    guard(fx_node.target, args)
    result = fx_node.target(*args, **kwargs)
    return result
