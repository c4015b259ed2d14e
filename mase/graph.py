"""The graph IR: a torch.fx graph whose nodes carry one typed record each, and a flat table of tensors.

A typed node computes what its record says (``kind``, ``attrs``, parameters by name); an ``opaque`` node runs as traced.
Records are frozen and hold JSON-able fields only; tensors live in one table, path -> tensor, shared between graphs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.graph import PythonCode

from mase.errors import FormatError, GraphError, suggest
from mase.files import write_atomic
from mase.formats import Code, Format, QuantParams, parse

SCHEMA = 1  # of graph.json
META = "mase"
PARTS = ("scale", "zero_point", "base")  # of format parameters, on chip
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
        simd: input lanes. pe: output lanes.
        fifos: depth in beats by block (``""`` the operator, ``convert``, ``normalise``); absent means not yet sized.
    """

    simd: int = 1
    pe: int = 1
    fifos: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Hold all that is known of one node.

    Args:
        kind: typed kind (``linear``, ``activation``, ``layout``, ``requantize``, ``input``, ``output``) or ``opaque``.
        path: module path, or the node's name where no module stands behind it; what globs match.
        attrs: constants of the kind, such as ``{"function": "relu"}``.
        operands: parameters by role, such as ``{"weight": TensorType}``; stored in the table as ``<path>.<role>``.
        output: type of the produced tensor.
        source: ``file:line`` of the model's code, where known.
        table: role -> key of the table, where it differs from ``<path>.<role>`` (tied weights).
        hw: how the node is built, after mapping.
    """

    kind: str
    path: str
    output: TensorType
    attrs: Mapping[str, Json] = field(default_factory=dict)
    operands: Mapping[str, TensorType] = field(default_factory=dict)
    source: str = ""
    table: Mapping[str, str] = field(default_factory=dict)
    hw: HwRecord | None = None

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
        """Producers of the operands that are activations, in order."""
        return [OpNode(self.graph, n) for n in self.node.all_input_nodes]

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
    """

    def __init__(
        self,
        module: fx.GraphModule,
        tensors: Mapping[str, Tensor],
        quant: Mapping[str, QuantParams] | None = None,
        overlay: Mapping[str, Record] | None = None,
    ) -> None:
        self.module, self.tensors, self.quant = module, dict(tensors), dict(quant or {})
        self.overlay = dict(overlay or {})

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
        return next(node for node in self.nodes() if node.kind == "output")

    def node(self, name: str) -> OpNode:
        """Return a node by name or by module path.

        Raises:
            GraphError: there is none; names the nearest.
        """
        for node in self.nodes():
            if name in (node.name, node.path):
                return node
        raise GraphError(f"node {name!r}: not in the graph{suggest(name, self.paths())}")

    def paths(self) -> list[str]:
        """Return the module paths of all operators and inputs."""
        return [node.path for node in self.nodes() if node.kind != "output"]

    def params(self, key: str) -> QuantParams:
        """Return the format parameters of an edge or tensor; empty ones where none are needed."""
        return self.quant.get(key, QuantParams())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run in exact mode: formatted nodes on integers, the others in float; real values come out."""
        from mase.interpreter import run  # the interpreter knows the operators, which know this file

        return run(self, inputs).real(self.output.inputs[0].name)

    # -- making new graphs ------------------------------------------------------------------------------------------

    def replace(
        self,
        records: Mapping[str, Record] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        quant: Mapping[str, QuantParams] | None = None,
    ) -> Graph:
        """Return a graph with some records (by node name), tensors or format parameters replaced."""
        copy, changed = copy_module(self.module), {**self.overlay, **(records or {})}
        for node in copy.graph.nodes:
            if node.name in changed:
                node.meta[META] = changed[node.name]
        return Graph(copy, {**self.tensors, **(tensors or {})}, {**self.quant, **(quant or {})})

    def overlaid(self, records: Mapping[str, Record], quant: Mapping[str, QuantParams] | None = None) -> Graph:
        """Return a view with some records and format parameters replaced that copies no graph: cheap, for trials."""
        return Graph(self.module, self.tensors, {**self.quant, **(quant or {})}, {**self.overlay, **records})

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
            if META not in node.node.meta:
                raise GraphError(f"node {node.node.name!r}: has no record")
            for role, kind in node.record.operands.items():
                tensor = self.tensors.get(node.record.key(role))
                if tensor is None:
                    raise GraphError(f"{node.where()}: parameter {node.record.key(role)!r} is not in the table")
                if tuple(tensor.shape) != kind.shape:
                    raise GraphError(
                        f"{node.where()}: {role} has shape {tuple(tensor.shape)}; its record says {kind.shape}"
                    )
            if node.kind not in ("input", "output", "opaque"):
                OPS[node.kind].check(node)
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
            GraphError: the graph holds opaque nodes, which only the traced Python can run.
        """
        from safetensors.torch import save as pack

        opaque = [node.path for node in self.operators() if node.kind == "opaque"]
        if opaque:
            raise GraphError(f"cannot save: opaque nodes need the traced Python: {', '.join(opaque[:5])}")
        used = {node.record.key(role) for node in self.nodes() for role in node.record.operands}
        tensors = {key: tensor.detach().contiguous().clone() for key, tensor in self.tensors.items() if key in used}
        quant = {}
        for key, params in self.quant.items():
            quant[key] = {"axis": params.axis}
            for part in PARTS:
                value = getattr(params, part)
                if value is not None:
                    tensors[f"{key}::{part}"] = value.contiguous().clone()  # a reshape shares those of its input
        nodes = [
            {"name": n.name, "inputs": [i.name for i in n.inputs], **_record_to_json(n.record)} for n in self.nodes()
        ]
        folder = Path(folder)
        write_atomic(folder / "weights.safetensors", pack(dict(sorted(tensors.items()))))
        document = {"schema": SCHEMA, "nodes": nodes, "quant": quant}
        write_atomic(folder / "graph.json", (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())

    @classmethod
    def load(cls, folder: str | Path) -> Graph:
        """Read what :meth:`save` wrote.

        Raises:
            GraphError: a file is missing, corrupt, or of a newer schema.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load as unpack

        folder = Path(folder)
        try:
            document = json.loads((folder / "graph.json").read_text())
            tensors = unpack((folder / "weights.safetensors").read_bytes())
        except FileNotFoundError as error:
            raise GraphError(
                f"{error.filename}: no such file; a saved graph has graph.json and weights.safetensors"
            ) from None
        except (json.JSONDecodeError, SafetensorError, UnicodeDecodeError) as error:
            raise GraphError(f"{folder}: saved graph is corrupt: {error}") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else type(document).__name__
            raise GraphError(f"{folder / 'graph.json'}: schema {found}; this version reads schema {SCHEMA}")
        try:
            quant = _quant_from_json(document["quant"], tensors)
            return cls(_module_from_json(document["nodes"]), tensors, quant).verify()
        except FormatError as error:
            raise GraphError(f"{folder / 'graph.json'}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise GraphError(f"{folder / 'graph.json'}: corrupt: {error!r}") from None


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


def _type_to_json(kind: TensorType) -> Json:
    return {"shape": list(kind.shape), "dtype": kind.dtype, "format": None if kind.format is None else str(kind.format)}


def _type_from_json(data: Mapping[str, Json]) -> TensorType:
    fmt = data["format"]
    return TensorType(tuple(data["shape"]), data["dtype"], None if fmt is None else parse(fmt))


def _record_to_json(record: Record) -> dict[str, Json]:
    hw = record.hw
    return {
        "kind": record.kind,
        "path": record.path,
        "attrs": dict(record.attrs),
        "output": _type_to_json(record.output),
        "operands": {role: _type_to_json(kind) for role, kind in record.operands.items()},
        "source": record.source,
        "table": dict(record.table),
        "hw": None if hw is None else {"simd": hw.simd, "pe": hw.pe, "fifos": dict(hw.fifos)},
    }


def _record_from_json(data: Mapping[str, Json]) -> Record:
    hw = data["hw"]
    return Record(
        kind=data["kind"],
        path=data["path"],
        output=_type_from_json(data["output"]),
        attrs=data["attrs"],
        operands={role: _type_from_json(kind) for role, kind in data["operands"].items()},
        source=data["source"],
        table=data["table"],
        hw=None if hw is None else HwRecord(hw["simd"], hw["pe"], hw["fifos"]),
    )


def _quant_from_json(entries: Mapping[str, Json], tensors: dict[str, Tensor]) -> dict[str, QuantParams]:
    """Take the format parameters out of the stored tensors."""
    quant = {}
    for key, entry in entries.items():
        scale, zero, base = (tensors.pop(f"{key}::{part}", None) for part in PARTS)
        quant[key] = QuantParams(scale=scale, zero_point=zero, base=base, axis=entry["axis"])
    return quant


def _module_from_json(nodes: Sequence[Mapping[str, Json]]) -> fx.GraphModule:
    graph = fx.Graph()
    env: dict[str, fx.Node] = {}
    for data in nodes:
        record = _record_from_json(data)
        operands = tuple(env[name] for name in data["inputs"])
        if record.kind == "input":
            node = graph.placeholder(data["name"])
        elif record.kind == "output":
            node = graph.output(operands[0])
        else:
            node = graph.call_function(typed, operands)
        node.name, node.meta[META] = data["name"], record
        env[data["name"]] = node
    return NodeGraph(nn.Module(), graph)
