"""Read nodes of an exported graph: names of operations, arguments by name, shapes, the modules around a node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mase.graph import TensorType

PREFIX = "model"  # of the wrapper that is exported: it holds the model under this name
OWN = str(Path(torch.__file__).parent)  # frames below it are not the model's
Size = Any  # int or SymInt
Node = Any  # fx.Node: what it takes is typed so widely there that every use would need a cast


def op(node: Any) -> str:
    """Return the name of the ATen operation that a node calls, such as ``add``; empty for everything else."""
    target = getattr(node, "target", None)
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target._opname)
    return ""


def is_op(node: Any, *names: str) -> bool:
    """Tell whether a node calls one of some ATen operations."""
    return op(node) in names


def label(node: Node) -> str:
    """Return how a node's operation is called in reports, such as ``aten.div``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}"
    return str(getattr(target, "__name__", target))


def arguments(node: Node) -> dict[str, Any]:
    """Return every argument of an ATen call by its name in the schema, defaults included."""
    schema = node.target._schema
    found = {}
    for place, argument in enumerate(schema.arguments):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
        found[argument.name] = given
    return found


def value(node: Node) -> Any:
    """Return the fake tensor, the symbolic number, or the tuple of them that a node gives."""
    return node.meta.get("val")


def symbolic(node: Node) -> tuple[Size, ...]:
    """Return the shape of a tensor with free sizes as symbols."""
    found = value(node)
    return tuple(found.shape) if isinstance(found, Tensor) else ()


def number(size: Size) -> int:
    """Return a size on the example inputs."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def shape(node: Node) -> tuple[int, ...]:
    """Return the shape of a tensor on the example inputs."""
    return tuple(number(size) for size in symbolic(node))


def is_free(size: Size) -> bool:
    """Tell whether a size is free at run time."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def same(a: Size, b: Size) -> bool:
    """Tell whether two sizes are equal for all inputs, without asking anything of the inputs."""
    if is_free(a) or is_free(b):
        return is_free(a) and is_free(b) and bool(a.node.expr == b.node.expr)
    return number(a) == number(b)


def same_shape(a: Node, b: Node) -> bool:
    """Tell whether two tensors have the same shape for all inputs."""
    left, right = symbolic(a), symbolic(b)
    return len(left) == len(right) and all(same(p, q) for p, q in zip(left, right, strict=True))


def tensor_type(node: Node) -> TensorType:
    """Return the type of what a node gives, on the example inputs; ``none`` where that is not a tensor."""
    found = value(node)
    if not isinstance(found, Tensor):
        return TensorType((), "none")
    return TensorType(shape(node), dtype_name(found.dtype))


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name without prefix, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def calls(node: Node) -> tuple[str, ...]:
    """Return the calls of modules around a node, outermost first, by path; ``@1`` marks a module's second call."""
    stack = [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    inside = [path for path in stack if path == PREFIX or path.startswith(f"{PREFIX}.")]
    return tuple(path.removeprefix(PREFIX).removeprefix(".") for path in inside)


def around(node: Node) -> str:
    """Return the path of the innermost module around a node; empty at the top."""
    stack = calls(node)
    return re.sub(r"@\d+", "", stack[-1]) if stack else ""


def source(node: Node) -> str:
    """Return ``file:line`` of the innermost frame that is the model's; empty where none is known."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    own = [(file, line) for file, line in frames if not file.startswith((OWN, "<"))]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


def where(node: Node) -> str:
    """Say where in the model's code a node comes from, for errors."""
    line = f" ({source(node)})" if source(node) else ""
    return f"module {around(node)!r}{line}" if around(node) else f"the model's forward{line}"


def is_unknown(size: Size) -> bool:
    """Tell whether a size depends on the values of tensors."""
    return isinstance(size, torch.SymInt) and size.node.hint is None


def ancestors(node: Node) -> Iterator[Node]:
    """Iterate over a node and everything that it is computed from."""
    seen: set[Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            yield current
            waiting.extend(current.all_input_nodes)


def integers(values: Any) -> list[int] | None:
    """Return plain integers; None where one is a symbol or a node."""
    found: list[Any] = list(values) if isinstance(values, list | tuple) else [values]
    return [int(item) for item in found] if all(isinstance(item, int) for item in found) else None
