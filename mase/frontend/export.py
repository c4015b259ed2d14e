"""Trace any model through ``torch.export``: capture, clean up, type what is known, and check against the model.

For models whose Python cannot be followed with symbols, such as those of transformers. What no rule knows stays an
opaque node, which runs as it was captured.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from mase.errors import GraphError
from mase.frontend.capture import capture, run_eagerly
from mase.frontend.check import (
    Example,
    Output,
    check_dynamic,
    check_equal,
    check_model,
    difference,
    frozen,
    named_axes,
    owned_tensors,
    second,
)
from mase.frontend.lift.clean import clean
from mase.frontend.lift.fold import drop_unread, fold
from mase.frontend.lift.mutate import without_writes
from mase.frontend.lift.nodes import PREFIX, Node, is_free, source, symbolic
from mase.frontend.lift.outline import finish
from mase.frontend.lift.regions import outline_modules
from mase.frontend.lift.work import Work
from mase.frontend.report import TraceReport
from mase.graph import META, Graph, OpNode, Record, TensorType

ELSEWHERE = {
    OutputKind.BUFFER_MUTATION: "buffer",
    OutputKind.USER_INPUT_MUTATION: "input",
    OutputKind.PARAMETER_MUTATION: "parameter",
}  # what an export may write into beside its results
ULPS = 8  # units in the last place of the greatest output


def trace_export(
    model: nn.Module, example_inputs: object, output: Output = None, dynamic: Iterable[str] = (), bound: float = 0.0
) -> tuple[Graph, TraceReport]:
    """Trace a model, type its nodes, and check the graph against the model.

    Args:
        model: in evaluation mode.
        example_inputs: tensors and constants in order of ``forward``, or by keyword.
        output: part of the result, or several; see :func:`mase.frontend.check.fields`.
        dynamic: axes that must be free at run time, of ``batch`` and ``seq``; all others stay as in the example. The
            batch is free anyway where the graph holds for another one.
        bound: greatest difference from the model that is allowed, relative to its greatest output.

    Returns:
        The graph, and what became of the model's operations.

    Raises:
        GraphError: the model trains, its control flow depends on data, it writes into its inputs or buffers, or the
            graph does not compute what it computes; names module and source line.
    """
    free = check_dynamic(dynamic)
    check_model(model)
    example = _without_cache(model, Example.of(model, example_inputs))
    want = run_eagerly(model, example, output)
    axes = named_axes(example.tensors, free)
    traced = _long_enough(example, axes)
    program = capture(model, traced, output, axes)
    graph, report = lift(program, model, example, axes, tuple(want))
    name, samples = type(model).__name__, {"the example": (example, want)}
    for which, step in _steps(example, axes).items():
        other = example.having(second(example.tensors, axes, step))
        samples[which] = other, run_eagerly(model, other, output)
    worst = check_equal(name, graph, samples, math.inf)
    if worst > bound:  # kernels round in another way with a mask than without: the model may have kept it
        graph, report = lift(program, model, example, axes, tuple(want), keep_masks=True)
        worst = check_equal(name, graph, samples, math.inf)
    if worst > bound:
        bound = max(bound, _own_rounding(program, model, samples))
        worst = check_equal(name, graph, samples, bound)
    graph = graph if "batch" in free else _with_free_batch(graph, model, example, output, bound)
    return graph, replace(report, bound=bound, worst=worst)


def _with_free_batch(graph: Graph, model: nn.Module, example: Example, output: Output, bound: float) -> Graph:
    """Return the graph with its batch free, where model and graph take another one and agree on it.

    An opaque node may hold sizes of the traced batch, and ATen's own functions do not check all of them.
    """
    if _is_opaque(graph):
        return graph
    axes = named_axes(example.tensors, {"batch"})
    records = {}
    for node, found in zip(graph.inputs, axes.values(), strict=True):
        held = [new or old for new, old in zip(found, node.record.attrs["axes"], strict=True)]
        records[node.name] = replace(node.record, attrs={**node.record.attrs, "axes": held})
    freed = graph.replace(records)
    larger = example.having(second(example.tensors, axes, {"batch": 1}))
    try:
        want = run_eagerly(model, larger, output)
        check_equal(type(model).__name__, freed, {"a larger batch": (larger, want)}, bound)
    except (GraphError, RuntimeError, ValueError, TypeError, IndexError):  # it holds for the traced batch alone
        return graph
    return freed


def _is_opaque(graph: Graph) -> bool:
    """Tell whether a graph or a body in it holds an opaque node."""
    inner = any(_is_opaque(body) for body in graph.bodies.values())
    return inner or any(node.kind == "opaque" for node in graph.operators())


def _own_rounding(
    program: ExportedProgram, model: nn.Module, samples: Mapping[str, tuple[Example, Mapping[str, Tensor]]]
) -> float:
    """Return what is allowed where the model itself rounds in two ways: a few units in the last place; else nothing.

    A model may choose its kernels by whether it is being captured, as transformers does for shared key heads. Whether
    that shows depends on the processor and on the numbers, so every sample is looked at.
    """
    found = 0.0
    for example, want in samples.values():
        with torch.no_grad(), frozen(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            captured = program.module()(*example.tensors.values())
        found = max(found, difference(want, dict(zip(want, captured, strict=True))))
    types = [x.dtype for _, want in samples.values() for x in want.values() if x.is_floating_point()]
    allowed = ULPS * max(torch.finfo(dtype).eps for dtype in types)
    return allowed if 0 < found <= allowed else 0.0


def lift(
    program: ExportedProgram,
    model: nn.Module,
    example: Example,
    axes: Mapping[str, list[str]],
    fields: tuple[str, ...],
    keep_masks: bool = False,
) -> tuple[Graph, TraceReport]:
    """Turn an exported program into a graph of typed and opaque nodes; see :func:`trace_export`."""
    program = _without_mutation(program, model)
    tensors, owners = owned_tensors(model)
    graph = _plain_graph(program, tensors, owners)
    _name_inputs(graph, example, axes)
    work = Work(graph, model, tensors, owners)
    work.keep_masks = keep_masks
    given = set(tensors)
    fold(work)
    outline_modules(work)
    work.run()
    tensors.update({key: tensors[key].t() for key in work.turned})
    traced = drop_unread(finish(work, fields), set(tensors) - given).verify()
    opaque = {n.path: _reason(n) for n in traced.operators() if n.kind == "opaque"}
    lifted = tuple(n.path for n in traced.operators() if n.kind not in ("opaque", "constant"))
    refused = {**_unread(traced, work.parameters), **work.refused}
    return traced, TraceReport(lifted, refused, opaque, tuple(work.notes))


def _unread(graph: Graph, parameters: Iterable[str]) -> dict[str, str]:
    """Return the modules of matrices that no typed node multiplies by, with the reason."""
    readers: dict[str, str] = {}
    for key, opaque in _readers(graph):
        readers[key] = readers.get(key, opaque) and opaque  # one typed reader is enough
    found = {}
    for key in sorted(parameters):
        path, _, role = key.rpartition(".")
        if graph.tensors[key].ndim < 2 or path in found or ".parametrizations." in key:
            continue
        if key not in readers and not any(reader.startswith(f"{key}.") for reader in readers):
            found[path] = f"{role} is not read on the way to this result"
        elif readers.get(key):
            found[path] = f"{role} is read by {readers[key]}, which has no typed kind"
    return found


def _readers(graph: Graph) -> Iterator[tuple[str, str]]:
    """Yield the key of every parameter that is read, with the opaque operation that reads it, if one does."""
    for node in graph.nodes():
        opaque = [user.record.attrs["target"] for user in node.users if user.kind == "opaque"]
        for role in node.record.operands:
            yield node.record.key(role), opaque[0] if node.kind == "constant" and opaque else ""
    for body in graph.bodies.values():
        yield from _readers(body)


def _reason(node: OpNode) -> str:
    """Say why a node is opaque."""
    name = node.record.attrs["target"]
    above = [source.record.attrs.get("target", "") for source in node.inputs]
    if name == "getitem":
        return f"{name}: is one of several results of {above[0]}"
    if name == "aten.sym_size":
        return f"{name}: is a size that is free"
    sized = "aten.sym_size" in above or any(not target.startswith("aten.") for target in above if target)
    return f"{name}: {'depends on a size that is free' if sized else 'has no typed kind'}"


def _without_cache(model: nn.Module, example: Example) -> Example:
    """Ask a model that can keep its keys and values not to."""
    parameters = inspect.signature(model.forward).parameters
    if "use_cache" not in parameters or "use_cache" in example.values:
        return example
    return replace(example, values={**example.values, "use_cache": False})


def _long_enough(example: Example, axes: Mapping[str, list[str]]) -> Example:
    """Return an example whose free axes are at least 2 long: what is 1 long counts as fixed to torch."""
    sizes = {name: x.shape[i] for key, x in example.tensors.items() for i, name in enumerate(axes[key]) if name}
    step = {name: 1 for name, size in sizes.items() if size < 2}
    return example.having(second(example.tensors, axes, step)) if step else example


def _steps(example: Example, axes: Mapping[str, list[str]]) -> dict[str, dict[str, int]]:
    """Return by how much the free axes of each further sample are longer than the example's."""
    steps: dict[str, dict[str, int]] = {"a second input": {}}
    sizes = {name: x.shape[i] for key, x in example.tensors.items() for i, name in enumerate(axes[key]) if name}
    if sizes:
        steps["an input of other sizes"] = {name: 1 if size < 3 else -(size // 2) for name, size in sizes.items()}
        steps["a longer input"] = {name: 1 for name in sizes if name == "batch"}
    return steps


def _without_mutation(program: ExportedProgram, model: nn.Module) -> ExportedProgram:
    """Return a program that writes nothing in place; functional torch does what our own rule cannot."""
    if not without_writes(program.graph):
        program.graph_module.recompile()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind in ELSEWHERE:
            where = next((source(n) for n in program.graph.nodes if n.name == spec.arg.name), "")
            name = str(spec.target).removeprefix(f"{PREFIX}.")
            raise GraphError(
                f"{type(model).__name__} ({where}): writes into the {ELSEWHERE[spec.kind]} {name!r}; "
                "allowed is to return a new tensor"
            )
    return program


def _plain_graph(program: ExportedProgram, tensors: dict[str, Tensor], owners: Mapping[str, str]) -> fx.Graph:
    """Copy an exported graph so that parameters, buffers and constants are read by key and inputs alone are given."""
    clean(program.graph)
    graph = fx.Graph()
    env: dict[Node, Node] = {}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if spec is not None and spec.kind is not InputKind.USER_INPUT:
            if node.users:
                env[node] = graph.create_node("get_attr", _key(program, spec, node, tensors, owners))
        elif node.op == "output":
            results = [env[n] for n in node.args[0]]
            env[node] = graph.output(results[0] if len(results) == 1 else tuple(results))
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])
        if node in env:
            env[node].meta = dict(node.meta)
    return graph


def _key(program: ExportedProgram, spec: Any, node: Node, tensors: dict[str, Tensor], owners: Mapping[str, str]) -> str:
    """Return the table's key of a parameter, a buffer, or a constant that the trace found, which is added."""
    name = str(spec.target).removeprefix(f"{PREFIX}.")
    if name in owners:
        return owners[name]
    found = program.constants.get(spec.target)
    if not isinstance(found, Tensor):
        raise GraphError(f"constant {name!r}: is {type(found).__name__}; allowed are tensors")
    key, count = name, 0
    while key in tensors:
        count += 1
        key = f"{name}_{count}"
    tensors[key] = found.detach()
    return key


def _name_inputs(graph: fx.Graph, example: Example, axes: Mapping[str, list[str]]) -> None:
    """Give inputs the model's names, and the free axes that the trace has left free.

    Raises:
        GraphError: the model fixes an axis that should be free.
    """
    holders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, (name, x) in zip(holders, example.tensors.items(), strict=True):
        found = symbolic(node)
        for axis, wanted in enumerate(axes[name]):
            if wanted and not is_free(found[axis]):
                raise GraphError(
                    f"input {name!r}: the model fixes axis {axis} ({wanted}) at {found[axis]}; it cannot be free"
                )
        node.name = graph._graph_namespace.create_name(name, None)
        kind = TensorType(tuple(x.shape), str(x.dtype).removeprefix("torch."))
        attrs = {"axes": list(axes[name])} | ({} if node.name == name else {"argument": name})
        node.meta[META] = Record("input", node.name, kind, attrs)
