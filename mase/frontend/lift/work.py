"""What rules share: the graph under way, its parameters, and how a rule says that it has found a typed node."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, fx, nn

from mase.frontend.lift.nodes import Node, around, dtype_name, is_op, label, op, source, tensor_type
from mase.graph import META, Graph, Record, TensorType, typed

VIEWS = ("t", "transpose", "permute", "squeeze", "unsqueeze", "view", "reshape", "select", "slice", "alias", "numpy_T")

SPLITS = ("split", "split_with_sizes", "chunk")


@dataclass(frozen=True, eq=False)
class Param:
    """A parameter, buffer or constant that a node reads.

    Args:
        key: of the table. tensor: it, or a view of it.
    """

    key: str
    tensor: Tensor

    @property
    def owner(self) -> str:
        """Path of the module that holds it."""
        return self.key.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Typed:
    """Say which typed node stands for a node and those above it.

    Args:
        kind, attrs: of the record.
        inputs: nodes whose tensors it takes, in order of ports.
        operands: parameters by role.
        ports: names of the inputs, where there are several roles.
        path: of the module; empty means found from the parameters, or from the modules around the node.
        body: nested graph that runs it; its inputs are the ports, then the operands.
    """

    kind: str
    inputs: tuple[Node, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    operands: Mapping[str, Param] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    path: str = ""
    body: Graph | None = None


Rule = Callable[["Work", Node], Typed | None]
_PATTERNS: dict[str, list[Rule]] = {}
_SINGLES: dict[str, list[Rule]] = {}


def rule(*names: str, pattern: bool = False) -> Callable[[Rule], Rule]:
    """Return a decorator that registers a rule for nodes that call some ATen operations.

    Args:
        pattern: it looks at nodes above as well, so it is asked before the rules of single nodes.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            (_PATTERNS if pattern else _SINGLES).setdefault(name, []).append(function)
        return function

    return register


@cache
def _filled() -> None:
    package = importlib.import_module("mase.frontend.lift")
    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"mase.frontend.lift.{module}")


def rules(name: str) -> list[Rule]:
    """Return the rules for an ATen operation, patterns first."""
    _filled()
    return _PATTERNS.get(name, []) + _SINGLES.get(name, [])


class Work:
    """Hold a graph while rules type its nodes.

    Args:
        graph: of ATen calls; ``get_attr`` nodes read the table.
        model: whose modules and parameters they are.
        tensors: parameters, buffers and constants by key, each once.
        aliases: keys by the other names of tied parameters.
        inside: it is a region that was cut out, in which no region is cut out again.
    """

    def __init__(
        self,
        graph: fx.Graph,
        model: nn.Module,
        tensors: dict[str, Tensor],
        aliases: Mapping[str, str],
        inside: bool = False,
    ) -> None:
        self.graph, self.model, self.tensors, self.aliases, self.inside = graph, model, tensors, aliases, inside
        self.modules = dict(model.named_modules())
        self.parameters = frozenset(name for name, _ in model.named_parameters())
        self.turned: set[str] = set()  # keys of matrices of which the table is to hold the transpose
        self.straight: set[str] = set()  # keys of those that are read as they are
        self.bodies: dict[str, Graph] = {}
        self.keep_masks = False  # a mask that is causal, or that hides nothing, stays an input of its attention
        self.notes: list[str] = []
        self.refused: dict[str, str] = {}
        self._names: dict[str, list[str]] = {}
        for name, key in aliases.items():
            self._names.setdefault(key, []).append(name)
        self._residents: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "call_function":
                self._residents[around(node)] = self._residents.get(around(node), 0) + 1

    def param(self, node: Any) -> Param | None:
        """Return the parameter or constant behind a node, through views; None where there is none."""
        if not isinstance(node, fx.Node):
            return None
        if node.op == "get_attr":
            return Param(str(node.target), self.tensors[str(node.target)])
        whole: Node = node.args[0] if label(node) == "getitem" and is_op(node.args[0], *SPLITS) else node
        if not is_op(whole, *VIEWS, *SPLITS) or any(isinstance(arg, fx.Node) for arg in whole.args[1:]):
            return None
        inner = self.param(whole.args[0])
        if inner is None:
            return None
        view = whole.target(inner.tensor, *whole.args[1:], **whole.kwargs)
        view = view if whole is node else view[node.args[1]]
        shares = (
            isinstance(view, Tensor) and view.untyped_storage().data_ptr() == inner.tensor.untyped_storage().data_ptr()
        )
        return Param(inner.key, view) if shares else None

    def constant(self, node: Any) -> Tensor | None:
        """Return the value of a node that reads the table, through views."""
        found = self.param(node)
        return None if found is None else found.tensor

    def add_constant(self, path: str, tensor: Tensor, before: Node) -> Node:
        """Put a new constant into the table and return a node that reads it."""
        key, count = path, 0
        while key in self.tensors:
            count += 1
            key = f"{path}_{count}"
        self.tensors[key] = tensor
        with self.graph.inserting_before(before):
            node = self.graph.create_node("get_attr", key)
        node.meta["val"] = tensor
        return node

    def path_of(self, node: Node, found: Typed) -> str:
        """Return the path of a typed node: of its parameters' module, or of the module around it."""
        if found.path:
            return found.path
        inside = around(node)
        weight = found.operands.get("weight")
        if weight is not None:
            owners = [name.rpartition(".")[0] for name in (weight.key, *self._names.get(weight.key, []))]
            return inside if inside in owners else owners[0]
        module = self.modules.get(inside)
        if inside and self._residents.get(inside) == 1 and module is not None and not any(module.children()):
            return inside
        return f"{inside}.{node.name}" if inside else node.name

    def is_turned(self, param: Param) -> bool:
        """Tell whether a node reads the transpose of what the model stores."""
        return param.tensor.stride() != self.tensors[param.key].stride()

    def rows(self, param: Param) -> Param | None:
        """Return a range of a matrix's rows, or of a vector, as an entry of the table that shares its memory."""
        stored, found = self.tensors[param.key], param.tensor
        if found.ndim != stored.ndim or found.shape[1:] != stored.shape[1:] or found.stride() != stored.stride():
            return None
        first = (found.data_ptr() - stored.data_ptr()) // (stored.element_size() * stored.stride(0))
        key = f"{param.key}.{first}_{first + found.shape[0]}"
        self.tensors.setdefault(key, found)
        return Param(key, self.tensors[key])

    def is_whole(self, param: Param) -> bool:
        """Tell whether a node reads a parameter as the model stores it."""
        return (param.tensor.shape, param.tensor.stride()) == (
            self.tensors[param.key].shape,
            self.tensors[param.key].stride(),
        )

    def fits(self, found: Typed) -> bool:
        """Tell whether every parameter is read whole and in one way: as it is, or as the transpose of a matrix."""
        for param in found.operands.values():
            stored = self.tensors[param.key]
            turned = self.is_turned(param)
            view = stored.t() if turned and stored.ndim == 2 else stored
            if (view.shape, view.stride()) != (param.tensor.shape, param.tensor.stride()):
                return False
            if param.key in (self.straight if turned else self.turned):
                return False
        return True

    def operand(self, param: Param) -> TensorType:
        """Return the type of a parameter that fits, and remember how it is read."""
        (self.turned if self.is_turned(param) else self.straight).add(param.key)
        return TensorType(tuple(param.tensor.shape), dtype_name(param.tensor.dtype))

    def type_node(self, node: Node, found: Typed) -> Node:
        """Put a typed node in place of ``node``, and drop what nobody reads any more."""
        path = self.path_of(node, found)
        operands = {role: self.operand(param) for role, param in found.operands.items()}
        table = {role: p.key for role, p in found.operands.items() if p.key != f"{path}.{role}"}
        record = Record(
            found.kind, path, tensor_type(node), dict(found.attrs), operands, source(node), table, ports=found.ports
        )
        with self.graph.inserting_before(node):
            new = self.graph.call_function(typed, found.inputs)
        new.meta = {**node.meta, META: record}
        node.replace_all_uses_with(new)
        name = node.name
        self.erase(node)
        new.name = self.graph._graph_namespace.create_name(path, None) if path.split(".")[-1] != name else name
        if found.body is not None:
            self.bodies[new.name] = found.body
        return new

    def erase(self, node: Node) -> None:
        """Remove a node and everything above it that has no other user."""
        waiting = [node]
        while waiting:
            current = waiting.pop()
            if current.users or current.op in ("placeholder", "output"):
                continue
            waiting.extend(n for n in current.all_input_nodes if set(n.users) == {current})
            self.graph.erase_node(current)

    def nested(self, graph: fx.Graph) -> Work:
        """Return the work on a region that was cut out; it shares the table."""
        inner = Work(graph, self.model, self.tensors, self.aliases, inside=True)
        inner.keep_masks = self.keep_masks
        inner.turned, inner.straight = self.turned, self.straight
        return inner

    def type_constant(self, node: Node) -> None:
        """Make a node that reads the table a typed constant."""
        key = str(node.target)
        tensor = self.tensors[key]
        if key in self.turned:  # the table will hold the transpose, which others read
            key = f"{key}.stored"
            self.tensors[key] = tensor
        self.straight.add(key)
        kind = TensorType(tuple(tensor.shape), dtype_name(tensor.dtype))
        attrs = {"parameter": True} if node.target in self.parameters else {}
        record = Record("constant", key, kind, attrs, {"value": kind}, table={"value": key})
        with self.graph.inserting_before(node):
            new = self.graph.call_function(typed, ())
        new.meta = {META: record}
        node.replace_all_uses_with(new)
        name = node.name
        self.graph.erase_node(node)
        new.name = name

    def run(self) -> None:
        """Type every node that a rule knows, from the last to the first, so that patterns see what is above them."""
        node = next(iter(reversed(self.graph.nodes)))
        while node.op != "root":
            before = node.prev
            if node.op == "call_function" and META not in node.meta:
                new = self._try(node)
                if new is not None:
                    before = new.prev  # the node's own neighbours may be gone
            node = before

    def _try(self, node: Node) -> Node | None:
        for candidate in rules(op(node) or ("getitem" if label(node) == "getitem" else "")):
            found = candidate(self, node)
            if found is not None and self.fits(found):
                return self.type_node(node, found)
        return None
