"""The graph IR: a torch.fx graph whose nodes carry one typed record each, and a flat table of tensors.

A typed node computes what its record says (``kind``, ``attrs``, parameters by name); an ``opaque`` node runs as traced.
Records are frozen and hold JSON-able fields only; tensors live in one table, path -> tensor, shared between graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, fx
from torch.fx.graph import PythonCode

from mase.errors import GraphError, suggest
from mase.formats import Code, Format, QuantParams

META = "mase"
Json = Any  # JSON-able: str, int, float, bool, None, list, dict


@dataclass(frozen=True)
class TensorType:
    """Say what travels on an edge.

    Args:
        shape: as traced; axis 0 of an activation is the batch.
        dtype: torch name without prefix, such as ``float32``.
        format: number format of the codes; None means real values.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    format: Format | None = None


@dataclass(frozen=True)
class HwRecord:
    """Say how a node is built: lanes, and the output FIFO depth of each of its blocks.

    Args:
        fold: how far it is folded out, by the names of its operator, such as ``{"simd": 8, "pe": 4}``; see
            :class:`mase.dataflow.work.Foldings`. A name that is absent stands for 1.
        fifos: depth in beats by block (``""`` the operator, ``convert``, ``normalise``); absent means not yet sized.
    """

    fold: Mapping[str, int] = field(default_factory=dict)
    fifos: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Hold all that is known of one node.

    Args:
        kind: typed kind (docs/frontend.md lists them), ``input``, ``output`` or ``opaque``.
        path: module path, or the node's name where no module stands behind it; what globs match.
        attrs: constants of the kind, such as ``{"function": "relu"}``. An input has ``axes``, a name for each axis that
            is free and ``""`` for one that is not (missing: axis 0 is free), and ``argument``, the model's name for it
            where the node has another. An output of several tensors has ``fields``, their names.
        operands: parameters by role, such as ``{"weight": TensorType}``; stored in the table as ``<path>.<role>``.
        output: type of the produced tensor.
        source: ``file:line`` of the model's code, where known.
        table: role -> key of the table, where it differs from ``<path>.<role>`` (tied weights).
        hw: how the node is built, after mapping.
        ports: names of the inputs in order, where the kind's own are not meant.
    """

    kind: str
    path: str
    output: TensorType
    attrs: Mapping[str, Json] = field(default_factory=dict)
    operands: Mapping[str, TensorType] = field(default_factory=dict)
    source: str = ""
    table: Mapping[str, str] = field(default_factory=dict)
    hw: HwRecord | None = None
    ports: tuple[str, ...] = ()

    def key(self, role: str) -> str:
        """Return the table key of a parameter."""
        return self.table.get(role, f"{self.path}.{role}")


class NodeGraph(fx.GraphModule):
    """Hold an fx graph without the Python that fx writes for it: names of modules would become code there."""

    def recompile(self) -> PythonCode:
        """Write no code; whoever runs the graph interprets it."""
        return PythonCode("", {}, {})


def typed(*operands: Tensor) -> Tensor:  # noqa: ARG001  # fx needs the signature
    """Stand in an fx graph for a typed node; only a Graph, which has records and tensors, can run one."""
    raise GraphError("a typed node runs inside a Graph: call the Graph, not its GraphModule")


class OpNode:
    """View one node together with the graph that it belongs to."""

    def __init__(self, graph: Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node

    @property
    def name(self) -> str:
        """Unique name of the node, and of the edge that it produces."""
        return self.node.name

    @property
    def record(self) -> Record:
        """The typed record."""
        record: Record = self.graph.overlay.get(self.node.name) or self.node.meta[META]
        return record

    @property
    def kind(self) -> str:
        """Kind of the record."""
        return self.record.kind

    @property
    def path(self) -> str:
        """Module path of the record."""
        return self.record.path

    @property
    def inputs(self) -> list[OpNode]:
        """Producers of the operands that are activations, in order; of a typed node one a port, also twice the same."""
        if self.node.op == "output":
            return [OpNode(self.graph, n) for n in _flat(self.node.args[0])]
        found: Sequence[Any] = self.node.args if self.node.target is typed else self.node.all_input_nodes
        return [OpNode(self.graph, n) for n in found]

    @property
    def users(self) -> list[OpNode]:
        """Consumers of the produced tensor."""
        return [OpNode(self.graph, n) for n in self.node.users]

    def tensor(self, role: str) -> Tensor:
        """Return the parameter that plays ``role``."""
        return self.graph.tensors[self.record.key(role)]

    def params(self, role: str = "") -> QuantParams:
        """Return the format's parameters of a parameter tensor, or of the produced tensor (role empty)."""
        return self.graph.params(self.record.key(role) if role else self.name)

    def where(self) -> str:
        """Say which node this is, for errors."""
        return f"node {self.path!r} ({self.kind}{', ' + self.record.source if self.record.source else ''})"


class Graph:
    """Hold a traced model: nodes with records, one table of tensors, one table of format parameters.

    Graphs are not mutated: passes call :meth:`replace` or :meth:`rewrite` and get a new one that shares every tensor.

    Args:
        module: fx module whose nodes carry records in ``meta["mase"]``.
        tensors: parameters, buffers and constants by path.
        quant: format parameters by edge name or tensor key.
        overlay: records that stand in for those of the module, by node name (see :meth:`overlaid`).
        bodies: what an outlined node computes, by its name: a graph with an input a port, on the same table of tensors.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        tensors: Mapping[str, Tensor],
        quant: Mapping[str, QuantParams] | None = None,
        overlay: Mapping[str, Record] | None = None,
        bodies: Mapping[str, Graph] | None = None,
    ) -> None:
        self.module, self.tensors, self.quant = module, dict(tensors), dict(quant or {})
        self.overlay = dict(overlay or {})
        self.bodies = {name: body.on(self.tensors) for name, body in (bodies or {}).items()}
        self._found: dict[str, fx.Node] = {}
        self._size = -1  # of the fx graph when its nodes were last found

    def on(self, tensors: dict[str, Tensor]) -> Graph:
        """Return a view of this graph on another table of tensors, which it shares and does not copy."""
        view = Graph(self.module, {}, self.quant, self.overlay)
        view.tensors = tensors
        view.bodies = {name: body.on(tensors) for name, body in self.bodies.items()}
        return view

    # -- reading ------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[OpNode]:
        """Iterate over all nodes in execution order, inputs and the output node included."""
        return (OpNode(self, node) for node in self.module.graph.nodes)

    def operators(self) -> list[OpNode]:
        """Return the nodes that compute something."""
        return [node for node in self.nodes() if node.kind not in ("input", "output")]

    @property
    def inputs(self) -> list[OpNode]:
        """Nodes of kind ``input``."""
        return [node for node in self.nodes() if node.kind == "input"]

    @property
    def output(self) -> OpNode:
        """The node of kind ``output``."""
        return OpNode(self, next(iter(reversed(self.module.graph.nodes))))

    def node(self, name: str) -> OpNode:
        """Return a node by name or by module path.

        Raises:
            GraphError: there is none; names the nearest.
        """
        node = self._found.get(name)
        if node is None or node._erased or self._size != len(self.module.graph.nodes):
            self._find()
        if name not in self._found:
            raise GraphError(f"node {name!r}: not in the graph{suggest(name, self.paths())}")
        return OpNode(self, self._found[name])

    def _find(self) -> None:
        """Make the table of nodes by name and by path; the first node of a path has it."""
        self._found, self._size = {}, len(self.module.graph.nodes)
        for node in self.nodes():
            self._found.setdefault(node.name, node.node)
            self._found.setdefault(node.path, node.node)

    def paths(self) -> list[str]:
        """Return the module paths of all operators and inputs."""
        return [node.path for node in self.nodes() if node.kind != "output"]

    def params(self, key: str) -> QuantParams:
        """Return the format parameters of an edge or tensor; empty ones where none are needed."""
        return self.quant.get(key, QuantParams())

    def __call__(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Run in exact mode: formatted nodes on integers, the others in float; real values come out.

        Args:
            inputs: in the order of the model's arguments. named: by name, also those that come after.

        Returns:
            The output; the first one where there are several (see :meth:`fields`).

        Raises:
            GraphError: an input is missing, unknown or of another shape.
        """
        from mase.interpreter import bind, run  # the interpreter knows the operators, which know this file

        return run(self, bind(self, inputs, named)).real(self.output.inputs[0].name)

    def fields(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Run as a call does, and return every output by name."""
        from mase.interpreter import bind, run

        values, names = run(self, bind(self, inputs, named)), self.output.record.attrs.get("fields", ["output"])
        return {name: values.real(node.name) for name, node in zip(names, self.output.inputs, strict=True)}

    # -- making new graphs ------------------------------------------------------------------------------------------

    def replace(
        self,
        records: Mapping[str, Record] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        quant: Mapping[str, QuantParams] | None = None,
        bodies: Mapping[str, Graph] | None = None,
    ) -> Graph:
        """Return a graph with some records (by node name), tensors, format parameters or bodies replaced."""
        copy, changed = copy_module(self.module), {**self.overlay, **(records or {})}
        for node in copy.graph.nodes:
            if node.name in changed:
                node.meta[META] = changed[node.name]
        tables = {**self.tensors, **(tensors or {})}, {**self.quant, **(quant or {})}
        return Graph(copy, *tables, bodies={**self.bodies, **(bodies or {})})

    def overlaid(self, records: Mapping[str, Record], quant: Mapping[str, QuantParams] | None = None) -> Graph:
        """Return a view with some records and format parameters replaced that copies no graph: cheap, for trials."""
        tables = {**self.quant, **(quant or {})}, {**self.overlay, **records}
        return Graph(self.module, self.tensors, *tables, self.bodies)

    def edited(self) -> tuple[Graph, fx.Graph]:
        """Return a copy whose fx graph may be edited, and that fx graph; call ``verify`` after editing."""
        copy = self.replace()
        return copy, copy.module.graph

    def verify(self) -> Graph:
        """Check that records, types and parameters agree on every node, and return the graph.

        Raises:
            GraphError: names the node and what is wrong with it.
        """
        from mase.ops.base import OPS

        for node in self.nodes():
            record = node.node.meta.get(META) and node.record
            if not record:
                raise GraphError(f"node {node.node.name!r}: has no record")
            for role, kind in record.operands.items():
                tensor = self.tensors.get(record.key(role))
                if tensor is None:
                    raise GraphError(f"{node.where()}: parameter {record.key(role)!r} is not in the table")
                if tuple(tensor.shape) != kind.shape:
                    raise GraphError(
                        f"{node.where()}: {role} has shape {tuple(tensor.shape)}; its record says {kind.shape}"
                    )
            if record.kind not in ("input", "output", "opaque"):
                OPS[record.kind].check(node)
            if record.ports and len(record.ports) != len(node.node.args):
                raise GraphError(f"{node.where()}: has {len(node.node.args)} inputs; its ports are {record.ports}")
        for name, body in self.bodies.items():
            outer, ports = self.node(name), len(body.inputs)
            if ports != len(outer.inputs):
                raise GraphError(f"{outer.where()}: has {len(outer.inputs)} inputs; its body takes {ports}")
            body.verify()
        return self

    def to_networkx(self) -> Any:  # networkx ships no types
        """Return a networkx DiGraph: nodes by name with their ``kind`` and ``path``, edges producer -> consumer."""
        import networkx as nx

        out: nx.DiGraph[str] = nx.DiGraph()
        for node in self.nodes():
            out.add_node(node.name, kind=node.kind, path=node.path)
            out.add_edges_from((producer.name, node.name) for producer in node.inputs)
        return out

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write ``graph.json`` and ``weights.safetensors``.

        Raises:
            GraphError: the graph holds opaque nodes that only the traced Python can run.
        """
        from mase.graphfile import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Graph:
        """Read what :meth:`save` wrote.

        Raises:
            GraphError: a file is missing, corrupt, or of a newer schema.
        """
        from mase.graphfile import load

        return load(Path(folder))


def copy_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copy the fx graph with its metadata; submodules and tensors are shared."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        env[node] = graph.node_copy(node, lambda n: env[n])
        env[node].name, env[node].meta = node.name, dict(node.meta)
    return NodeGraph(module, graph)


def new_type(kind: TensorType, fmt: Format | None) -> TensorType:
    """Return the type with another format."""
    return replace(kind, format=fmt)


def decode(code: Code, kind: TensorType, params: QuantParams) -> Tensor:
    """Return the real values of codes on an edge, in the edge's dtype where it holds them exactly, else float64."""
    assert kind.format is not None
    return kind.format.decode(code, params)


def _flat(value: Any) -> list[fx.Node]:  # fx arguments nest at will
    """Return the nodes of an output's argument, in order."""
    return [value] if isinstance(value, fx.Node) else [node for item in value or () for node in _flat(item)]
