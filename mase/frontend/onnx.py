"""ONNX and QONNX files as graphs of typed nodes: every operator on its own kind, quantisers as number formats.

The file is read node by node on an example of a batch, so that shapes are known and shape arithmetic is folded. Axis 0
of the inputs stays free. What the file computes is what the graph computes; nothing is approximated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from mase.errors import ConfigError, GraphError, ToolError, UnsupportedOp, suggest
from mase.formats import QuantParams
from mase.formats.binary import Binary
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.frontend.onnx_attributes import check_drawn, check_read, check_types
from mase.frontend.onnx_batch import batch_sizes, examples
from mase.frontend.onnx_builder import TYPES, Attributes, Builder, Constant, Step, dtype_of, type_of
from mase.frontend.onnx_channels_last import CHANNELS_LAST
from mase.frontend.onnx_check import bound_of, check_batch, distance
from mase.frontend.onnx_fold import enter, fold
from mase.frontend.onnx_formats import QONNX, QUANTISERS, dtype_name
from mase.frontend.onnx_layout import Import
from mase.frontend.onnx_nodes import NODES
from mase.frontend.onnx_rules import LAST, Rules, check_size, one_line, told
from mase.frontend.report import TraceReport
from mase.graph import META, Graph, NodeGraph, OpNode, Record
from mase.interpreter import has_formats, train
from mase.lowering import lower

DOMAINS: dict[str, Mapping[str, Import]] = {
    **dict.fromkeys(("", "ai.onnx"), NODES),
    **dict.fromkeys(("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"), QONNX),
    LAST: CHANNELS_LAST,
}  # operators by domain
JUDGED = tuple(name for name in QUANTISERS if name != "DequantizeLinear")
KEEPERS = ("Transpose", "Identity", "Dropout")  # of a constant's format, name and type
UNFOLDED = (*QUANTISERS, *KEEPERS)
MOVES = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "MaxPool")  # of codes
LEARNED = ("weight", "bias")  # operands that training changes; statistics, masks and constants stay
KEPT = ("reshape", "view", "flatten", "permute", "squeeze", "unsqueeze", "slice", "select", "gather")  # of formats
OLDEST = 7  # opset; before it, operators broadcast in another way


def load(path: str | Path, sizes: Mapping[str, int] | None = None, compare: bool = True) -> tuple[Graph, TraceReport]:
    """Read a file, and compare the graph with ONNX's own reference evaluator on two inputs.

    Args:
        path: of the ``.onnx`` file. sizes: of axes that the file names and leaves open, such as ``{"sequence": 16}``.
        compare: False leaves the comparison out; the evaluator is slow on large images.

    Raises:
        ConfigError: there is no such file, an open axis has no size, or a size belongs to no open axis.
        GraphError: the file is damaged, axis 0 of its inputs is not a batch, or the results differ.
        UnsupportedOp: an operator, or the way in which it is used, has no counterpart; names the node.
        ToolError: the package ``onnx`` is missing.
    """
    model = _read(Path(path))
    where = [Path(path).name]
    with told(lambda: ": ".join(where)):
        return _load(model, Path(path).name, dict(sizes or {}), compare, where)


def _load(model: Any, file: str, sizes: dict[str, int], compare: bool, where: list[str]) -> tuple[Graph, TraceReport]:
    """Read, build, check and compare; ``where`` is told which node is at work."""
    builder = _start(model, file, sizes)
    rules, alive = Rules(builder.opset), Counter(builder.uses)
    for step in _steps(model, builder.opset):
        where[1:] = [step.where()]
        _import(builder, step, model, rules)
        alive.subtract(step.inputs)
        builder.release(step, alive)
    del where[1:]
    graph = _finish(model, builder)
    graph, refused, merged = _settled(graph)
    check_batch(graph, builder)
    lifted = tuple(node.path for node in graph.operators() if node.kind != "opaque")
    opaque = {node.path: builder.opaque[node.path] for node in graph.operators() if node.kind == "opaque"}
    worst, why = distance(model, graph, builder, merged) if compare else (None, "compare is False")
    if worst is None:
        note = f"not compared with ONNX's reference evaluator: {why}"
        return graph, TraceReport(lifted, refused, opaque, (note,), worst=None)
    return graph, TraceReport(lifted, refused, opaque, bound=bound_of(graph), worst=worst)


class OnnxModel(nn.Module):
    """Stand for an ONNX file where a PyTorch model is wanted: its parameters can be trained and stored.

    Args:
        path, sizes, compare: as :func:`load`.
    """

    def __init__(self, path: str | Path, sizes: Mapping[str, int] | None = None, compare: bool = True) -> None:
        super().__init__()
        self._graph, self._report = load(path, sizes, compare)
        self._keys: dict[str, str] = {}  # table key -> name of the parameter or buffer
        learned = {node.record.key(r) for node in self._graph.operators() for r in node.record.operands if r in LEARNED}
        for key, tensor in self._graph.tensors.items():
            self._keys[key] = self._hold(key, tensor, key in learned and tensor.is_floating_point())

    def _hold(self, key: str, tensor: Tensor, learned: bool) -> str:
        """Register a tensor under its dotted name, or one near it that Python leaves free; return the name."""
        home: nn.Module = self
        *folders, leaf = key.split(".")
        names = []
        for folder in folders:
            while not isinstance(getattr(home, folder, home), nn.Module):
                folder += "_"
            if not hasattr(home, folder):
                home.add_module(folder, nn.Module())
            home = home.get_submodule(folder)
            names.append(folder)
        while hasattr(home, leaf):
            leaf += "_"
        if learned:
            home.register_parameter(leaf, nn.Parameter(tensor))
        else:
            home.register_buffer(leaf, tensor)
        return ".".join([*names, leaf])

    def _table(self) -> dict[str, Tensor]:
        held: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {key: held[name] for key, name in self._keys.items()}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute as the graph does, with gradients."""
        return train(self._graph.on(self._table()), inputs)

    def traced(self) -> tuple[Graph, TraceReport]:
        """Return the graph, on this model's tensors, and its report."""
        return self._graph.on({key: tensor.detach() for key, tensor in self._table().items()}), self._report


# -- reading the file -----------------------------------------------------------------------------------------------


def _onnx() -> Any:  # ships no types that a strict checker takes
    try:
        import onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise ToolError("onnx is not installed; pip install mase-dse[onnx]") from None
    return onnx


def _read(path: Path) -> Any:  # a ModelProto
    """Read the file and put its own functions in place."""
    onnx = _onnx()
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
        if not model.graph.output or not model.opset_import:
            raise ValueError("has no outputs or no opset")  # noqa: TRY301  # told as every other damage
        if not model.functions:
            return model
        from onnx.inliner import inline_local_functions

        return inline_local_functions(model)
    except Exception as error:  # protobuf, the checks of external data and the inliner raise errors of every kind
        raise GraphError(f"{path}: this file is damaged, or is not an ONNX file: {one_line(error)}") from error


def _start(model: Any, file: str, sizes: dict[str, int]) -> Builder:
    """Enter the inputs and the tensors of the file."""
    graph = model.graph
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=OLDEST)
    if opset < OLDEST:
        raise UnsupportedOp(f"{file}: opset {opset}; allowed is {OLDEST} or later")
    uses = Counter([name for node in graph.node for name in node.input] + [value.name for value in graph.output])
    held = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in held]
    if not inputs:
        raise GraphError(f"{file}: has no inputs")
    first = _dims(inputs[0])[:1]
    written = int(first[0]) if first and isinstance(first[0], int) else None
    builder = Builder(file, opset, uses, batch_sizes(model), written)
    named = [(axis, dim) for value in inputs for axis, dim in enumerate(_dims(value)) if isinstance(dim, str)]
    _check_sizes(file, sizes, {dim for axis, dim in named if axis or [dim] != first})
    for tensor in graph.initializer:
        array = _tensor(tensor, file)
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise GraphError(f"{file}: tensor {tensor.name!r}: holds NaN")
        enter(builder, tensor.name, (array, array), tensor.name)
    generator = torch.Generator().manual_seed(0)
    for value in inputs:
        batched = bool(first) and _dims(value)[:1] == first
        shapes = [_shape(value, file, sizes, size if batched else 0) for size in builder.batches]
        check_size(f"{file}: input {value.name!r}", [written or 1, *shapes[0][1:]] if batched else shapes[0])
        given = examples(_dtype(file, value), shapes, generator)
        builder.add_input(value.name, given, ["batch" * batched, *[""] * len(shapes[0][1:])])
    return builder


def _tensor(tensor: Any, file: str) -> Any:  # a TensorProto, and a numpy array
    """Return a tensor of the file, whose numbers must be as many as its shape says."""
    onnx, where = _onnx(), f"{file}: tensor {tensor.name!r}"
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # the helper raises errors of every kind
        raise GraphError(f"{where}: the file is damaged: {one_line(error)}") from error


def _check_sizes(file: str, sizes: Mapping[str, int], known: set[str]) -> None:
    """Refuse sizes of axes that the file does not leave open, and sizes below one."""
    for name, size in sizes.items():
        if name not in known:
            raise ConfigError(f"{file}: sizes: no open axis {name!r}{suggest(str(name), known)}")
        if size < 1:
            raise ConfigError(f"{file}: sizes: {name} is {size}; allowed is 1 or more")


def _dims(value: Any) -> list[int | str]:
    """Return the axes of an input: a size, or the name of one that is open."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param for dim in dims]


def _shape(value: Any, file: str, sizes: dict[str, int], batch: int) -> list[int]:
    """Return the shape of an input; ``batch``: of axis 0, where it is the batch."""
    shape = []
    for axis, dim in enumerate(_dims(value)):
        if axis == 0 and batch:
            shape.append(batch)
        elif isinstance(dim, int):
            shape.append(dim)
        elif dim in sizes:
            shape.append(sizes[dim])
        else:
            known = f"give sizes, such as {{{dim!r}: 16}}" if dim else "name it in the file"
            raise ConfigError(f"{file}: input {value.name!r}: axis {axis} ({dim or 'without a name'}) is open; {known}")
    if not shape:
        raise UnsupportedOp(f"{file}: input {value.name!r} has no axes; a batch axis is needed")
    return shape


def _dtype(file: str, value: Any) -> torch.dtype:
    """Return the type of an input's elements."""
    number = value.type.tensor_type.elem_type
    name = dtype_name(number) if number else "no tensor type"
    if name not in TYPES:
        raise UnsupportedOp(f"{file}: input {value.name!r} has type {name}; allowed: {', '.join(TYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _steps(model: Any, opset: int) -> list[Step]:
    """Return the nodes of the file, each with a name of its own."""
    onnx, taken, steps = _onnx(), set(), []
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        if name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        attrs = Attributes({a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute})
        steps.append(Step(node.op_type, node.domain, name, tuple(node.input), tuple(node.output), attrs, node, opset))
    return steps


def _plain(value: Any) -> Any:
    """Return an attribute as Python has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# -- building -------------------------------------------------------------------------------------------------------


def _import(builder: Builder, step: Step, model: Any, rules: Rules) -> None:
    """Enter what a node gives: folded where it follows from the file alone, else a typed node.

    Raises:
        UnsupportedOp: see :func:`load`.
    """
    _check_domain(step)
    if fault := rules.fault(step.proto):
        raise step.refuse(f"breaks ONNX's rules: {fault}")
    check_drawn(step)
    values = [builder.value(step, i, varied=True) for i, name in enumerate(step.inputs) if name]
    if all(isinstance(value, Constant) for value in values) and step.type not in UNFOLDED:
        fold(builder, step, model)
        return
    function = _function(step)
    codes = [name for name in step.inputs if name in builder.codes]
    if codes and step.type not in (*MOVES, "DequantizeLinear"):
        raise step.refuse(
            f"computes on the codes {codes[0]!r} of a quantiser; only DequantizeLinear and moves of elements may do so"
        )
    found = function(builder, step)
    results = [found] if isinstance(found, fx.Node | Constant) else list(found)
    check_read(step)
    check_types(builder, step, results[0])
    for name, value in zip([name for name in step.outputs if name], results, strict=False):
        builder.values[name] = value
        if isinstance(value, Constant) and step.type in KEEPERS:
            builder.dtypes[name] = builder.dtypes.get(step.inputs[0], dtype_of(value.tensor))
        if codes and step.type in MOVES:
            builder.codes[name] = builder.codes[codes[0]]
        if step.type in JUDGED:
            builder.quantised.add(name)
            if isinstance(value, fx.Node):
                builder.rounded[name] = value.name


def _check_domain(step: Step) -> None:
    """Refuse an operator of a domain that nobody reads."""
    if step.domain not in DOMAINS:
        allowed = ", ".join(name for name in DOMAINS if "." in name and name != "ai.onnx")
        raise step.refuse(f"the domain {step.domain!r} is not supported; allowed are ONNX's own and {allowed}")


def _function(step: Step) -> Import:
    """Return what reads an operator."""
    table = DOMAINS[step.domain]
    if step.type not in table:
        raise step.refuse(f"is not supported{suggest(step.type, table)}")
    return table[step.type]


def _finish(model: Any, builder: Builder) -> Graph:
    """Add the outputs and check the graph."""
    nodes, names = [], [value.name for value in model.graph.output]
    for name in names:
        if name in builder.codes:
            raise UnsupportedOp(
                f"{builder.file}: output {name!r} holds the codes of a quantiser; end the graph in DequantizeLinear"
            )
        step = Step("output", "", name, (name,), (), Attributes({}), None)
        nodes.append(builder.node(step, 0))
    builder.outputs = [node.name for node in nodes]
    node = builder.graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
    fields = {} if len(nodes) == 1 else {"fields": names}
    node.meta[META] = Record("output", "output", type_of(builder.sample(nodes[0])), fields)
    builder.graph.eliminate_dead_code()
    used = {n.meta[META].key(role) for n in builder.graph.nodes for role in n.meta[META].operands}
    tensors = {key: tensor for key, tensor in builder.tensors.items() if key in used}
    alive = used | {n.name for n in builder.graph.nodes}
    quant = {key: params for key, params in builder.quant.items() if key in alive}
    return Graph(NodeGraph(nn.Module(), builder.graph), tensors, quant).verify()


# -- quantisers become the formats of edges -------------------------------------------------------------------------


def _settled(graph: Graph) -> tuple[Graph, dict[str, str], dict[str, str]]:
    """Let the node that produces a tensor round it, wherever the node's exact arithmetic takes the formats.

    Returns:
        The graph, by path why a quantiser stays a node of its own, and by name the node that rounds in its place.
    """
    changes = _Changes(graph)
    for node in graph.nodes():
        if node.kind == "layout" and len(node.inputs) == 1:
            changes.move(node)
        elif node.kind == "requantize":
            changes.merge(node)
    return changes.applied(), changes.refused, changes.merged


class _Changes:
    """Collect what becomes of the formats of a graph, by node name."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.records: dict[str, Record] = {}
        self.quant: dict[str, QuantParams] = {}
        self.merged: dict[str, str] = {}  # quantiser -> the node that rounds in its place
        self.refused: dict[str, str] = {}

    def record(self, node: OpNode) -> Record:
        """Return a node's record as it is by now."""
        return self.records.get(node.name, node.record)

    def merge(self, node: OpNode) -> None:
        """Let the producer of a quantiser's input round, where it has no format and no other reader."""
        source = node.inputs[0]
        if self.record(source).output.format is not None:
            if reason := self.refusal(node, node.record, self.graph.params(node.name)):
                self.refused[node.path] = reason
                if source.name in self.records and source.kind == "layout":  # it rounds nothing itself
                    del self.records[source.name], self.quant[source.name]
            return
        if len(source.users) > 1:
            return
        record, params = self.record(source), self.graph.params(node.name)
        given = replace(record, output=replace(record.output, format=node.record.output.format))
        if reason := self.refusal(source, given, params):
            self.refused[node.path] = reason
            return
        self.records[source.name], self.quant[source.name] = given, params
        self.merged[node.name] = source.name

    def move(self, node: OpNode) -> None:
        """Give a node that only moves elements the format of its input, where one rule holds for all elements."""
        source = node.inputs[0]
        fmt = self.record(source).output.format
        params = self.quant.get(source.name, self.graph.params(source.name))
        whole = isinstance(fmt, Fixed | Int | Binary) and (params.scale is None or params.scale.ndim == 0)
        if not whole or node.record.attrs.get("function", "reshape") not in KEPT:
            return
        given = replace(node.record, output=replace(node.record.output, format=fmt))
        if reason := self.refusal(node, given, params):
            self.refused[node.path] = reason
        else:
            self.records[node.name], self.quant[node.name] = given, params

    def refusal(self, node: OpNode, record: Record, params: QuantParams) -> str:
        """Say why a node's exact arithmetic would not take a format; nothing where it does, or where it has none."""
        view = self.graph.overlaid({**self.records, node.name: record}, {**self.quant, node.name: params})
        node = OpNode(view, node.node)
        if not has_formats(node):
            return ""
        try:
            lower(node)
        except UnsupportedOp as error:
            return str(error)
        return ""

    def applied(self) -> Graph:
        """Return the graph with these changes made."""
        if not self.records:
            return self.graph
        graph = self.graph.replace(self.records, quant=self.quant)
        nodes = {node.name: node for node in graph.module.graph.nodes}
        for name, source in self.merged.items():
            nodes[name].replace_all_uses_with(nodes[source])
            graph.module.graph.erase_node(nodes[name])
            del graph.quant[name]
        return graph.verify()
