"""Graphs as files: ``graph.json`` and ``weights.safetensors``; no Python code is written or read."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from mase import aten
from mase.doors import file, json_text
from mase.doors import tensors as tensor_file
from mase.errors import GraphError, MaseError
from mase.files import write_atomic
from mase.formats import QuantParams, parse
from mase.formats.base import SHARED
from mase.formats.packed import Held
from mase.formats.packed_file import from_tensors, to_tensors
from mase.graph import META, Graph, HwRecord, Json, NodeGraph, OpNode, Record, TensorType, typed
from mase.graphcheck import check_calls, check_dtype, check_tables

SCHEMA = 4  # of graph.json; 1 had no bodies, ports or opaque nodes, 2 no digest of the weights, 3 lanes without names
READS = (1, 2, 3, 4)
SIDES = ("simd", "pe")  # lanes of inputs and outputs, which every node had before schema 4
LARGEST = 1 << 40  # bytes of weights: any file that memory holds
SCALARS: Mapping[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in (
        "getitem",
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    )
}  # Python's own operators that a saved opaque node may call
NAMED = ("dtype", "layout", "memory_format")  # torch objects that are known by name


def save(graph: Graph, folder: Path) -> None:
    """Write ``graph.json`` and ``weights.safetensors``; opaque nodes must call ATen or a plain operator.

    Raises:
        GraphError: the graph holds opaque nodes that only the traced Python can run.
    """
    from safetensors.torch import save as pack

    stored = _Stored()
    document = {"schema": SCHEMA, **_graph_to_json(graph, stored, "")}
    held = set(_held(graph))
    for key in dict.fromkeys(_used(graph)):
        if key not in held:
            stored.add(key, graph.tensors[key].detach())
    document["transposed"] = sorted(stored.transposed)
    weights = pack(dict(sorted(stored.tensors.items())))
    document["weights"] = {"sha256": hashlib.sha256(weights).hexdigest()}
    write_atomic(folder / "weights.safetensors", weights)
    write_atomic(folder / "graph.json", (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def load(folder: Path) -> Graph:
    """Read what :func:`save` wrote.

    Raises:
        GraphError: a file is missing, corrupt, or of a newer schema.
    """
    hint = "; a saved graph has graph.json and weights.safetensors"
    document = json_text.read(folder / "graph.json", GraphError, hint)
    json_text.check_schema(document, READS, str(folder / "graph.json"))
    where = folder / "weights.safetensors"
    weights = file.content(where, LARGEST, GraphError, hint)
    try:
        _check_digest(document, weights, folder)
        tensors = tensor_file.parse(weights, str(where))
        for key in document.get("transposed", ()):
            tensors[key] = tensors[key].t()
        graph = _graph_from_json(document, tensors, "").verify()
        check_tables(graph)
        check_calls(graph)
    except GraphError:
        raise
    except MaseError as error:
        raise GraphError(f"{folder / 'graph.json'}: {error}") from None
    except Exception as error:  # noqa: BLE001  # a field of another kind can break anything that is made of it
        raise GraphError(f"{folder / 'graph.json'}: corrupt: {error!r}") from None
    return graph


def _check_digest(document: Mapping[str, Json], weights: bytes, folder: Path) -> None:
    """Compare the weights with what the graph was saved with; files of schema 1 and 2 do not say."""
    if document["schema"] < 3:
        return
    if hashlib.sha256(weights).hexdigest() != document["weights"]["sha256"]:
        path = folder / "weights.safetensors"
        raise GraphError(
            f"{path}: damaged, or of another graph: the digest in graph.json says so; put the file that was saved with "
            "it in its place"
        )


NONE = "none"  # dtype of a value that is not a tensor
TEXTS = ("name", "kind", "path", "source")  # fields of a node
TABLES = ("attrs", "table", "operands")


@dataclass
class _Stored:
    """Collect tensors for one file, in which no two may share memory."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)

    def add(self, key: str, tensor: Tensor) -> None:
        """Take a tensor; a transposed matrix stays one, since products on it round as on the original."""
        check_dtype(tensor.dtype, f"cannot save: tensor {key!r}")
        if tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous():
            self.transposed.add(key)
            tensor = tensor.t()
        whole = tensor.is_contiguous() and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        if not whole or tensor.data_ptr() in self.seen:
            tensor = tensor.contiguous().clone()
        self.seen.add(tensor.data_ptr())
        self.tensors[key] = tensor


def _used(graph: Graph) -> Iterator[str]:
    """Yield the keys of all parameters, those of bodies too."""
    for node in graph.nodes():
        yield from (node.record.key(role) for role in node.record.operands)
    for body in graph.bodies.values():
        yield from _used(body)


def _held(graph: Graph) -> Iterator[str]:
    """Yield the keys of the tensors that a container holds, and that are therefore saved in it alone.

    Raises:
        GraphError: a tensor is not what its container holds.
    """
    for key, params in graph.quant.items():
        if params.packed is not None and key in graph.tensors:
            if not torch.equal(graph.tensors[key].detach(), params.packed.dense):
                raise GraphError(f"cannot save: tensor {key!r} has other values than the container that holds it")
            yield key
    for body in graph.bodies.values():
        yield from _held(body)


# -- graphs -----------------------------------------------------------------------------------------------------------


def _graph_to_json(graph: Graph, stored: _Stored, prefix: str) -> dict[str, Json]:
    """Return a graph and its bodies; ``prefix`` keeps the format parameters of bodies apart."""
    quant = {}
    for key, params in graph.quant.items():
        quant[key] = {"axis": params.axis, "axes": params.axes, "seed": params.seed}
        for part in SHARED:
            if getattr(params, part) is not None:
                stored.add(f"{prefix}{key}::{part}", getattr(params, part))
        if params.packed is not None:
            quant[key]["packed"] = _held_to_json(params.packed, stored, f"{prefix}{key}::")
    bodies = {name: _graph_to_json(body, stored, f"{prefix}{name}//") for name, body in graph.bodies.items()}
    return {"nodes": [_node_to_json(node) for node in graph.nodes()], "quant": quant, "bodies": bodies}


def _held_to_json(held: Held, stored: _Stored, prefix: str) -> Json:
    parts = []
    for i, part in enumerate(held.parts):
        tensors, told = to_tensors(part)
        for name, tensor in tensors.items():
            stored.add(f"{prefix}{i}.{name}", tensor)
        parts.append(told)
    return {"shape": list(held.shape), "transposed": held.transposed, "parts": parts}


@dataclass(frozen=True)
class _Held:
    shape: tuple[int, ...]
    transposed: bool
    parts: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _Axes:
    """What is read of the parameters of a format, besides their tensors."""

    axis: int
    axes: tuple[int, ...] | None = None
    seed: int = 0
    packed: _Held | None = None


def _held_from_json(told: _Held, tensors: dict[str, Tensor], prefix: str) -> Held:
    parts = []
    for i, part in enumerate(told.parts):
        own = {k: tensors.pop(k) for k in list(tensors) if k.startswith(f"{prefix}{i}.")}
        own = {k.removeprefix(f"{prefix}{i}."): t for k, t in own.items()}
        parts.append(from_tensors(own, part, prefix.removesuffix("::")))
    return Held(tuple(parts), told.shape, told.transposed)


def _graph_from_json(data: Mapping[str, Json], tensors: dict[str, Tensor], prefix: str) -> Graph:
    quant = {}
    for key, entry in data["quant"].items():
        parts = {part: tensors.pop(f"{prefix}{key}::{part}", None) for part in SHARED}
        told = json_text.checked(_Axes, entry, f"corrupt: parameters of {key[:60]!r}")
        packed = None if told.packed is None else _held_from_json(told.packed, tensors, f"{prefix}{key}::")
        if packed is not None:
            tensors.setdefault(key, packed.dense)
        quant[key] = QuantParams(**parts, axis=told.axis, axes=told.axes, seed=told.seed, packed=packed)
    bodies = {
        name: _graph_from_json(body, tensors, f"{prefix}{name}//") for name, body in data.get("bodies", {}).items()
    }
    return Graph(_module_from_json(data["nodes"]), tensors if not prefix else {}, quant, bodies=bodies)


def _node_to_json(node: OpNode) -> dict[str, Json]:
    out = {"name": node.name, "inputs": [source.name for source in node.inputs], **_record_to_json(node.record)}
    return out if node.kind != "opaque" else {**out, "call": _call_to_json(node)}


def _module_from_json(nodes: Sequence[Mapping[str, Json]]) -> fx.GraphModule:
    graph = fx.Graph()
    env: dict[str, fx.Node] = {}
    for data in nodes:
        record = _record_from_json(data)
        operands = tuple(env[name] for name in data["inputs"])
        if record.kind == "input":
            node = graph.placeholder(data["name"])
        elif record.kind == "output":
            node = graph.output(operands if "fields" in record.attrs else operands[0])
        elif record.kind == "opaque":
            call = data["call"]
            args, kwargs = (_from_json(call[part], env) for part in ("args", "kwargs"))
            target = _target(call["target"])
            if isinstance(target, torch._ops.OpOverload):
                aten.check(target, args, kwargs)
            node = graph.call_function(target, tuple(args), kwargs)
        else:
            node = graph.call_function(typed, operands)
        node.name, node.meta[META] = data["name"], record
        env[data["name"]] = node
    return NodeGraph(nn.Module(), graph)


# -- records ----------------------------------------------------------------------------------------------------------


def _type_to_json(kind: TensorType) -> Json:
    return {"shape": list(kind.shape), "dtype": kind.dtype, "format": None if kind.format is None else str(kind.format)}


def _type_from_json(data: Mapping[str, Json]) -> TensorType:
    fmt, dtype = data["format"], data["dtype"]
    if not isinstance(dtype, str) or (dtype != NONE and not isinstance(getattr(torch, dtype, None), torch.dtype)):
        raise ValueError(f"dtype {str(dtype)[:40]!r} does not exist")
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
        "hw": None if hw is None else {"fold": dict(hw.fold), "fifos": dict(hw.fifos)},
        "ports": list(record.ports),
    }


@dataclass(frozen=True)
class _Type:
    shape: tuple[int, ...]
    dtype: str
    format: str | None


@dataclass(frozen=True)
class _Hardware:
    fold: dict[str, int]
    fifos: dict[str, int]


@dataclass(frozen=True)
class _Attrs:
    """Attributes that nodes of several kinds have; the others are their operator's business."""

    axes: tuple[str | int, ...] | int | None = None
    fields: Any = None


@dataclass(frozen=True)
class _Node:
    """What every node in a file has, each field of its kind."""

    inputs: tuple[str, ...]
    output: _Type
    operands: dict[str, _Type]
    attrs: _Attrs
    hw: _Hardware | None
    ports: tuple[str, ...] = ()


def _check_fields(data: Mapping[str, Json]) -> None:
    """Refuse fields of another kind, which only a run of the graph would show, and names that do not print."""
    for fields, kind, needed in ((TEXTS, str, "text"), (TABLES, dict, "a table")):
        for name in fields:
            if not isinstance(data[name], kind):
                raise TypeError(f"{name} of a node: found {str(data[name])[:40]!r}; {needed} is needed")
    for text in (*(data[name] for name in TEXTS), *data["table"], *data["table"].values(), *data["operands"]):
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"name {str(text)[:40]!r} has a character that cannot be printed")
    count = len(data["output"]["shape"])
    axes = data["attrs"].get("axes", [""] * count) if data["kind"] == "input" else [""] * count
    if not isinstance(axes, list) or len(axes) != count:
        raise ValueError(
            f"axes of node {data['name']!r}: found {axes!r}; there must be one name for each of {count} axes"
        )


def _record_from_json(data: Mapping[str, Json]) -> Record:
    _check_fields(data)
    hw = data["hw"]
    if isinstance(hw, dict) and set(hw) == {*SIDES, "fifos"}:
        hw = {"fold": {name: hw[name] for name in SIDES}, "fifos": hw["fifos"]}
    json_text.checked(_Node, {**data, "hw": hw}, f"corrupt: node {data['name'][:60]!r}")
    return Record(
        kind=data["kind"],
        path=data["path"],
        output=_type_from_json(data["output"]),
        attrs=data["attrs"],
        operands={role: _type_from_json(kind) for role, kind in data["operands"].items()},
        source=data["source"],
        table=data["table"],
        hw=None if hw is None else HwRecord(hw["fold"], hw["fifos"]),
        ports=tuple(data.get("ports", ())),
    )


# -- opaque calls -----------------------------------------------------------------------------------------------------


def _call_to_json(node: OpNode) -> Json:
    """Return what an opaque node calls, with references to nodes by name."""
    target = node.node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        name = str(target)
        if not aten.is_allowed(target):
            raise GraphError(
                f"cannot save: opaque {node.where()} calls {name}, which a saved graph may not call (see mase/aten.py)"
            )
    elif SCALARS.get(getattr(target, "__name__", "")) is target:
        name = f"operator.{target.__name__}"
    else:
        raise GraphError(f"cannot save: opaque {node.where()} needs the traced Python function {target}")
    where = node.where()
    return {"target": name, "args": _to_json(list(node.node.args), where), "kwargs": _to_json(node.node.kwargs, where)}


def _target(name: str) -> Callable[..., Any]:
    """Return the ATen operation or plain operator of this name; nothing else can be called by a saved graph."""
    room, _, rest = name.partition(".")
    return SCALARS[rest] if room == "operator" and rest in SCALARS else aten.find(name)


def _to_json(value: Any, where: str) -> Json:  # fx arguments nest at will
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, list):
        return [_to_json(item, where) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_to_json(item, where) for item in value]}
    if isinstance(value, slice):
        return {"slice": [_to_json(item, where) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, Mapping):
        return {"dict": {key: _to_json(item, where) for key, item in value.items()}}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for name in NAMED:
        if isinstance(value, getattr(torch, name)):
            return {name: str(value).removeprefix("torch.")}
    raise GraphError(f"cannot save: {where}: an argument is of type {type(value).__name__}, which cannot be saved")


def _from_json(data: Json, env: Mapping[str, fx.Node]) -> Any:
    if isinstance(data, list):
        return [_from_json(item, env) for item in data]
    if not isinstance(data, dict):
        return data
    ((name, value),) = data.items()
    if name == "node":
        return env[value]
    if name == "float":
        return float(value)
    if name == "tuple":
        return tuple(_from_json(item, env) for item in value)
    if name == "slice":
        return slice(*(_from_json(item, env) for item in value))
    if name == "dict":
        return {key: _from_json(item, env) for key, item in value.items()}
    found = torch.device(value) if name == "device" else getattr(torch, value, None)
    if name not in (*NAMED, "device") or not isinstance(found, getattr(torch, name)) or not aten.ordinary(found):
        raise ValueError(f"{name[:20]} {str(value)[:40]!r} is not one that a saved graph may name")
    return found
