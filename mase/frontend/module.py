"""Trace a plain ``nn.Module`` into a Graph: an fx tracer with sample values, then a kind for each call that has one."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from mase.errors import GraphError
from mase.frontend.calls import SPEC, Lifted, Opaque, kind_of
from mase.frontend.capture import place
from mase.frontend.check import (
    AXES,
    Example,
    Output,
    check_dynamic,
    check_equal,
    check_model,
    eager,
    first_line,
    named_axes,
    plain_attention,
    second,
)
from mase.frontend.functions import lift_call
from mase.frontend.layouts import reshaped
from mase.frontend.modules import Lift, lift_module
from mase.frontend.outline import Refused, Region
from mase.frontend.patterns import join
from mase.frontend.report import TraceReport
from mase.frontend.values import REGION, SCOPE, FreeSize, ValueTracer
from mase.graph import META, Graph, NodeGraph, Record, TensorType, typed

OWN = (str(Path(torch.__file__).parent), str(Path(__file__).parent))  # frames below these are not the user's
REWRITTEN_BOUND = 1e-5  # of modules that are traced in another form than their own code, which may round elsewhere
NONE = TensorType((), "none")  # of a value that is not a tensor


@dataclass(frozen=True)
class Samples:
    """Hold two calls of a model and what they gave, and the names of the axes that are free.

    Args:
        example, other: the calls. want, other_want: outputs by name. axes: of each input, a name an axis or ``""``.
    """

    example: Example
    want: Mapping[str, Tensor]
    other: Example
    other_want: Mapping[str, Tensor]
    axes: Mapping[str, Sequence[str]]


def trace_module(
    model: nn.Module,
    inputs: object,
    output: Output = None,
    dynamic: Iterable[str] = (),
) -> tuple[Graph, TraceReport]:
    """Trace, give every node its record, and check the graph against the model on two inputs.

    The batch is free where the model takes another one; ``dynamic`` demands it, and a free second axis with ``seq``.

    Args:
        model: in evaluation mode. inputs: one example tensor an argument, or arguments by name; axis 0 is the batch.
        output: which of several results the graph gives (see :func:`mase.frontend.check.fields`).
        dynamic: names of axes that must be free: batch, seq.

    Raises:
        GraphError: the model trains, has data-dependent control flow, changes what it reads, or its graph does not
            compute what it computes.
        ConfigError: an axis has another name.
    """
    name = type(model).__name__
    check_model(model)
    example, wanted = Example.of(model, inputs), check_dynamic(dynamic)
    samples = sampled(model, example, output, wanted, wanted | {"batch"})
    notes: list[str] = []
    try:
        tracer, traced = _traced(model, samples, output)
    except _NeedsSize as error:
        if "batch" in wanted or not any("batch" in names for names in samples.axes.values()):
            raise error.refusal from error
        notes.append(f"the batch is fixed: {error.refusal}")
        samples = sampled(model, example, output, wanted, wanted)
        tracer, traced = _traced(model, samples, output)
    lifting = _Lifting(model, tracer, samples.axes)
    graph = lifting.graph(traced, list(samples.want)).verify()
    bound = REWRITTEN_BOUND if tracer.rewritten else 0.0
    checks = {"the example": (samples.example, samples.want), "a second input": (samples.other, samples.other_want)}
    worst = check_equal(name, graph, checks, bound)
    rewritten = [f"{path}: traced in the form of its parts, which may round elsewhere" for path in tracer.rewritten]
    notes += [*rewritten, *tracer.notes]
    return graph, TraceReport(tuple(lifting.lifted), lifting.refused, lifting.opaque, tuple(notes), bound, worst)


class _NeedsSize(Exception):
    """The model's code must know a size that is free; carries the error that says so."""

    def __init__(self, refusal: GraphError) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def _traced(model: nn.Module, samples: Samples, output: Output) -> tuple[ValueTracer, fx.Graph]:
    """Trace on two samples.

    Raises:
        _NeedsSize: a size that differs between the samples decides something.
        GraphError: the model cannot be traced at all.
    """
    tracer = ValueTracer(model, (samples.example, samples.other), output)
    try:
        with torch.no_grad(), plain_attention():
            return tracer, tracer.run(model)
    except FreeSize as error:
        raise _NeedsSize(_refused(type(model).__name__, tracer, error)) from error
    except Exception as error:  # the model's own code runs here and may raise anything
        raise _refused(type(model).__name__, tracer, error) from error


def sampled(
    model: nn.Module, example: Example, output: Output, dynamic: frozenset[str], hoped: frozenset[str]
) -> Samples:
    """Run the model on the example and on a second random input, of other sizes where it takes them.

    Args:
        dynamic: axes that must be free. hoped: these and others that may be.

    Raises:
        GraphError: the model fails on the example, or on another size of an axis that must be free.
    """
    try:
        want = eager(model, example, output)
    except GraphError:
        raise
    except Exception as error:  # the model's own code runs here and may raise anything
        raise GraphError(f"{place(error, model)}: fails on the example inputs: {first_line(error)}") from error
    why = ""
    for names, step in _sizes_to_try(dynamic, hoped):
        axes = named_axes(example.tensors, names)
        other = example.having(second(example.tensors, axes, dict.fromkeys(AXES, step)))
        try:
            return Samples(example, want, other, eager(model, other, output), axes)
        except Exception as error:  # noqa: BLE001  # likewise; then this size is not free
            why = why or first_line(error)
    asked = f"dynamic {', '.join(sorted(dynamic))}: " if dynamic else ""
    raise GraphError(f"{type(model).__name__}: {asked}fails on a second input: {why}")


def _sizes_to_try(dynamic: frozenset[str], hoped: frozenset[str]) -> list[tuple[frozenset[str], int]]:
    """Return names of axes and how much longer they are: first what is hoped for, last what was asked for."""
    tries = [(hoped, 1), (dynamic, 1), (dynamic, -1)] if "seq" in dynamic else [(hoped, 1), (dynamic, 1)]
    return list(dict.fromkeys(tries))


def _refused(name: str, tracer: ValueTracer, error: Exception) -> GraphError:
    """Return the error of a failed trace: module, source line, reason."""
    path = tracer.failed or "the model itself"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(OWN)]
    line = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = first_line(error)
    if "cannot assign" in text:
        text = f"unsupported mutation: {text}; return the new value instead"
    return GraphError(f"{name}: cannot be traced: module {path!r}{line}: {text}")


@dataclass
class _Lifting:
    """Turn a traced fx graph into one of typed nodes.

    Args:
        lifted: paths of typed nodes. refused: of modules that could not be outlined. opaque: of the others; with the
            reason.
    """

    model: nn.Module
    tracer: ValueTracer
    axes: Mapping[str, Sequence[str]]
    lifted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)

    def graph(self, traced: fx.Graph, names: Sequence[str]) -> Graph:
        """Give every node its record, and drop what nobody reads."""
        for node in list(traced.nodes):
            if node.op in ("call_module", "call_function", "call_method"):
                self._call(traced, node)
            elif node.op == "placeholder":
                node.meta[META] = self._input(node)
        join(traced)
        _sweep(traced)
        bodies = self._outline(traced)
        _sweep(traced)
        last = next(iter(reversed(traced.nodes)))
        last.meta = {META: _output(last, names)}
        self._finish(traced)
        return Graph(NodeGraph(self.model, traced), self.tracer.table, bodies=bodies)

    def _outline(self, graph: fx.Graph) -> dict[str, Graph]:
        """Replace the code of modules that say what they are by one node each, and return the bodies of these."""
        members: dict[int, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.meta.get(REGION) is not None and node.op != "get_attr":
                members.setdefault(node.meta[REGION], []).append(node)
        bodies = {}
        for number, nodes in members.items():
            path, lift = self.tracer.regions[number]
            try:
                region = Region.of(nodes)
            except Refused as reason:
                self.refused[path] = str(reason)
                continue
            body = region.body(self.model, self._finish)
            bodies[self._stand_in(graph, region, path, lift).name] = body
        return bodies

    def _stand_in(self, graph: fx.Graph, region: Region, path: str, lift: Lift) -> fx.Node:
        """Put one typed node in the place of a region."""
        keys = {role: self.tracer.owners[f"{path}.{name}"] for role, name in lift.operands.items()}
        operands = {role: _kind(self.tracer.table[key]) for role, key in keys.items()}
        table = {role: key for role, key in keys.items() if key != f"{path}.{role}"}
        with graph.inserting_after(region.result):
            new = graph.create_node("call_function", typed, tuple(region.ports), name=path.replace(".", "_"))
        ports = tuple(port.name for port in region.ports)
        output, source = _type(kind_of(region.result)), _source(region.result)
        record = Record(lift.kind, path, output, lift.attrs, operands, source, table, ports=ports)
        new.meta = {SPEC: region.result.meta[SPEC], META: record}
        region.result.replace_all_uses_with(new)
        for node in reversed(region.nodes):
            graph.erase_node(node)
        return new

    def _finish(self, graph: fx.Graph) -> None:
        """Turn what reads parameters into constants, note what became of every node, and keep its record alone."""
        for node in list(graph.nodes):
            if node.op == "get_attr":
                self._constant(graph, node)
        for node in graph.nodes:
            record: Record = node.meta[META]
            node.meta = {META: record}
            if record.kind == "opaque":
                self.opaque[record.path] = str(record.attrs["why"])
            elif record.kind not in ("input", "output"):
                self.lifted.append(record.path)

    def _call(self, graph: fx.Graph, node: fx.Node) -> None:
        """Replace a call by a typed node, or record why it stays."""
        output, source = _type(kind_of(node)), _source(node)
        try:
            path, lifted, keys = self._module(node, output) if node.op == "call_module" else self._function(node)
        except Opaque as reason:
            target = type(self.model.get_submodule(str(node.target))) if node.op == "call_module" else node.target
            name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
            path = str(node.target) if node.op == "call_module" else _path(node)
            node.meta[META] = Record("opaque", path, output, {"target": name, "why": str(reason)}, source=source)
            return
        operands = {role: _kind(self.tracer.table[key]) for role, key in keys.items()}
        table = {role: key for role, key in keys.items() if key != f"{path}.{role}"}
        learned = keys.get("other") is None or keys["other"] in self.tracer.weights
        attrs = lifted.attrs if learned else {**lifted.attrs, "parameter": False}
        with graph.inserting_before(node):
            new = graph.call_function(typed, tuple(lifted.inputs))
        new.meta = {key: node.meta[key] for key in (SPEC, SCOPE, REGION)}
        new.meta[META] = Record(lifted.kind, path, output, attrs, operands, source, table)
        name = node.name
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        new.name = name

    def _module(self, node: fx.Node, output: TensorType) -> tuple[str, Lifted, dict[str, str]]:
        path = str(node.target)
        m = self.model.get_submodule(path)
        found = lift_module(m, output)
        if found is None or not isinstance(kind_of(node), TensorType):
            raise Opaque("no typed kind for it")
        x = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if len(node.args) + len(node.kwargs) != 1 or not isinstance(x, fx.Node):
            raise Opaque("it has more arguments than its input")
        lifted = Lifted(found.kind, [x], found.attrs)
        if found.kind == "layout" and "shape" in found.attrs and "function" not in found.attrs:
            lifted = reshaped(x, node)
        return path, lifted, {role: self._key(path, m, name) for role, name in found.operands.items()}

    def _key(self, path: str, m: nn.Module, name: str) -> str:
        """Return the table's key of a module's tensor; one that a parametrization computes is computed once."""
        key = f"{path}.{name}"
        if key not in self.tracer.owners:
            with torch.no_grad():
                self.tracer.table[key] = getattr(m, name).detach()
            self.tracer.owners[key] = key
            self.tracer.notes.append(f"{key}: computed once from its parametrization")
        return self.tracer.owners[key]

    def _function(self, node: fx.Node) -> tuple[str, Lifted, dict[str, str]]:
        lifted = lift_call(node)
        keys = {role: str(parameter.target) for role, parameter in lifted.operands.items()}
        return _owner(keys.get("weight", "")) or _path(node), lifted, keys

    def _constant(self, graph: fx.Graph, node: fx.Node) -> None:
        """Replace the access of a parameter, a buffer or a constant by a node of that kind."""
        key, name = str(node.target), node.name
        output = _kind(self.tracer.table[key])
        with graph.inserting_before(node):
            new = graph.call_function(typed, ())
        attrs = {"parameter": True} if key in self.tracer.weights else {}
        new.meta = {META: Record("constant", key, output, attrs, {"value": output}, table={"value": key})}
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        new.name = name

    def _input(self, node: fx.Node) -> Record:
        attrs: dict[str, Any] = {"axes": list(self.axes[str(node.target)])}
        if node.name != node.target:
            attrs["argument"] = str(node.target)
        return Record("input", node.name, _type(kind_of(node)), attrs)


def _output(node: fx.Node, names: Sequence[str]) -> Record:
    first = node.args[0] if isinstance(node.args[0], fx.Node) else node.args[0][0]  # type: ignore[index]  # a tuple
    assert isinstance(first, fx.Node)
    record: Record | None = first.meta.get(META)  # a parameter has none yet
    attrs = {"fields": list(names)} if len(names) > 1 or names[0] != "output" else {}
    return Record("output", node.name, record.output if record else _type(kind_of(first)), attrs)


def _owner(key: str) -> str:
    """Return the path that a parameter's name gives to the call that uses it: ``a.fc.weight`` is that of ``a.fc``."""
    path, _, name = key.rpartition(".")
    if name == "weight":
        return path
    return key.removesuffix("_weight") if name.endswith("_weight") else ""


def _path(node: fx.Node) -> str:
    """Return the path of a call without a module: that of the module whose code makes it, and the node's name."""
    scope = node.meta.get(SCOPE, "")
    return f"{scope}.{node.name}" if scope else node.name


def _source(node: fx.Node) -> str:
    """Return ``file:line`` of the innermost frame that is the user's."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    own = [(file, line) for file, line in frames if not file.startswith(OWN)]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def _type(found: object) -> TensorType:
    return found if isinstance(found, TensorType) else NONE


def _kind(tensor: Tensor) -> TensorType:
    return TensorType(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _sweep(graph: fx.Graph) -> None:
    """Drop nodes that nobody reads, from the last to the first; inputs stay."""
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
