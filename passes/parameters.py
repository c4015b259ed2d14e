"""Count parameters and constants of every node, and the bits that they are stored in; a shared tensor counts once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from mase.graph import Graph, OpNode
from mase.interpreter import is_exact
from mase.lowering import lower
from passes.base import graph_pass
from passes.sample import stored_bits

# Operands that no training changes: running statistics, and what a node of kind ``constant`` holds. The attribute
# ``parameter`` of a record says it of a tensor that may be either.
CONSTANTS = frozenset({"value", "mean", "variance"})


@dataclass(frozen=True)
class ParametersConfig:
    """Nothing to choose."""


@dataclass(frozen=True)
class Stored:
    """One tensor as one node uses it.

    Args:
        key: in the table of tensors. bits: that it is stored in, shared fields counted. constant: no parameter, such as
            a running mean. tied: key under which an earlier node has the same memory, empty where this is the first.
    """

    key: str
    role: str
    shape: tuple[int, ...]
    format: str
    elements: int
    bits: int
    constant: bool
    tied: str = ""


@dataclass(frozen=True)
class NodeParameters:
    """The tensors of one node; ``parameters`` and ``bits`` leave constants out and count what is tied."""

    name: str
    path: str
    kind: str
    tensors: tuple[Stored, ...]

    @property
    def parameters(self) -> int:
        """Elements of its parameters."""
        return sum(tensor.elements for tensor in self.tensors if not tensor.constant)

    @property
    def bits(self) -> int:
        """Bits of its parameters."""
        return sum(tensor.bits for tensor in self.tensors if not tensor.constant)


@dataclass(frozen=True)
class ParametersReport:
    """All nodes that hold tensors, in order of execution; sums count a tensor once, and its bits once a format.

    Args:
        parameters: elements. bits: stored for them. constants, constant_bits: the same of buffers.
    """

    nodes: tuple[NodeParameters, ...]
    parameters: int
    bits: int
    constants: int
    constant_bits: int

    @property
    def bytes(self) -> int:
        """Bytes of all parameters and constants."""
        return -(-(self.bits + self.constant_bits) // 8)

    @property
    def bits_per_parameter(self) -> float:
        """Average stored bits of a parameter; 0 where there is none."""
        return self.bits / self.parameters if self.parameters else 0.0

    @property
    def tied(self) -> dict[str, str]:
        """Operands, as ``path.role``, whose tensor an earlier node has as well, and the key of that one."""
        return {f"{node.path}.{t.role}": t.tied for node in self.nodes for t in node.tensors if t.tied}

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        sums = {"bytes": self.bytes, "bits_per_parameter": self.bits_per_parameter, "tied": self.tied}
        return {**asdict(self), **sums}


@graph_pass("parameters", ParametersConfig, provides=("parameters",))
def parameters(graph: Graph, config: ParametersConfig) -> tuple[Graph, ParametersReport]:
    """Count what each node stores; the graph stays as it is.

    A tensor without a format counts the bits of its dtype, unless its operator stores it on the accumulator's grid:
    then the bits of that memory. A tensor that two nodes use in different formats is stored twice.
    """
    nodes, owners = [], dict[tuple[int, int], str]()  # key by where in memory and how many
    stored = dict[tuple[int, int, str], Stored]()  # the same, and by format
    for node in graph.nodes():
        found = []
        for item, tensor in tensors_of(node):
            place = tensor.data_ptr(), tensor.numel()
            item = replace(item, tied=owners.get(place, ""))
            owners.setdefault(place, item.key)
            stored.setdefault((*place, item.format), item)
            found.append(item)
        if found:
            nodes.append(NodeParameters(node.name, node.path, node.kind, tuple(found)))
    elements = {(where, many): item for (where, many, _), item in reversed(stored.items())}
    return graph, ParametersReport(
        tuple(nodes),
        sum(item.elements for item in elements.values() if not item.constant),
        sum(item.bits for item in stored.values() if not item.constant),
        sum(item.elements for item in elements.values() if item.constant),
        sum(item.bits for item in stored.values() if item.constant),
    )


def tensors_of(node: OpNode) -> Iterator[tuple[Stored, Tensor]]:
    """Yield every tensor that a node holds, those of its body too."""
    if node.kind == "opaque":
        for key in _opaque_keys(node):
            tensor = node.graph.tensors[key]
            shape, bits = tuple(tensor.shape), tensor.numel() * tensor.element_size() * 8
            yield Stored(key, key.rpartition(".")[2], shape, "", tensor.numel(), bits, constant=False), tensor
    memories = _memories(node)
    for role, kind in node.record.operands.items():
        own = sum(bits for name, bits in memories.items() if name.startswith(role.capitalize()))
        bits = stored_bits(kind, kind.shape, node.params(role).axis)
        fmt = "" if kind.format is None else str(kind.format)
        key, tensor = node.record.key(role), node.tensor(role)
        bits = own if kind.format is None and own else bits
        constant = not node.record.attrs.get("parameter", role not in CONSTANTS)
        yield Stored(key, role, tuple(tensor.shape), fmt, tensor.numel(), bits, constant), tensor
    body = node.graph.bodies.get(node.name)
    if body is not None:
        outer = {(tensor.data_ptr(), tensor.numel()) for tensor in map(node.tensor, node.record.operands)}
        parts = (pair for inner in body.nodes() for pair in tensors_of(inner))
        yield from ((item, tensor) for item, tensor in parts if (tensor.data_ptr(), tensor.numel()) not in outer)


def _memories(node: OpNode) -> dict[str, int]:
    """Return the bits of each memory of an exact node at one lane, where no word is padded."""
    if not is_exact(node) or all(kind.format is not None for kind in node.record.operands.values()):
        return {}
    blocks = lower(node).circuit(1, 1, {}).blocks.values()
    return {name: image.width * image.depth for block in blocks for name, image in block.memories().items()}


def _opaque_keys(node: OpNode) -> list[str]:
    target = str(node.node.target)
    if node.node.op == "get_attr":
        return [target] if target in node.graph.tensors else []
    known = node.graph.tensors
    return [key for key in known if key.startswith(f"{target}.")] if node.node.op == "call_module" else []
