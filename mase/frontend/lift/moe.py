"""moe: a block with a router and experts held as 3-D parameters; what it computes becomes the body of one node."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mase.frontend.lift.nodes import Node, calls, is_op, value
from mase.frontend.lift.outline import outline, plainly
from mase.frontend.lift.work import Param, Typed, Work

EXPERTS = {"gate_up_proj": "gate_up", "down_proj": "down"}  # names of parameters that transformers gives, our roles


def outline_experts(work: Work) -> None:
    """Make one node of every call of a block that routes to experts."""
    for path, block in work.modules.items():
        if _experts(block) is None:
            continue
        for call in sorted({c for node in work.graph.nodes for c in calls(node) if c.split("@")[0] == path}):
            region = [node for node in work.graph.nodes if call in calls(node) and node.op == "call_function"]
            found = _block(work, path, region)
            if isinstance(found, str):
                work.refused[path] = found
            else:
                work.type_node(*found)


def _experts(block: nn.Module) -> nn.Module | None:
    """Return the child that holds the experts as 3-D parameters."""
    child = getattr(block, "experts", None)
    held = [getattr(child, name, None) for name in EXPERTS]
    return child if all(isinstance(p, Tensor) and p.ndim == 3 for p in held) else None


def _block(work: Work, path: str, region: list[Node]) -> tuple[Node, Typed] | str:
    """Read one call of a block; a text says why it cannot be one node."""
    inside = set(region)
    outside = [node for node in region if any(user not in inside for user in node.users)]
    results = [
        node for node in outside if isinstance(value(node), Tensor)
    ]  # sizes are computed again where they are read
    reads = dict.fromkeys(n for node in region for n in node.all_input_nodes if n not in inside)
    ports = [n for n in reads if n.op != "get_attr" and isinstance(value(n), Tensor)]
    if len(results) != 1 or len(ports) != 1:
        return f"has {len(ports)} inputs and {len(results)} results; a block of experts has one of each"
    operands = _operands(work, path, reads)
    missing = {"router", "gate_up", "down"} - set(operands)
    if missing:
        return f"{', '.join(sorted(missing))}: not read as a parameter of the block"
    attrs = _attributes(region, operands)
    body = outline(work, inside, ports, results[0])
    found = Typed("moe", tuple(ports), attrs, operands, ("x",), path, body)
    return results[0], plainly(work, results[0], found)


def _operands(work: Work, path: str, reads: Any) -> dict[str, Param]:
    """Return the parameters of the block by role; those without a role keep their name."""
    found = {}
    for node in reads:
        if node.op != "get_attr" or node.target not in work.aliases or not str(node.target).startswith(f"{path}."):
            continue
        name = str(node.target).removeprefix(f"{path}.")
        short = name.removeprefix("experts.")
        role = EXPERTS.get(short, "router" if name in ("gate.weight", "router.weight") else name)
        found[role] = Param(str(node.target), work.tensors[str(node.target)])
    return found


def _attributes(region: list[Node], operands: dict[str, Param]) -> dict[str, Any]:
    """Read how many experts there are, how many a token sees, and the function between the products."""
    normalises = any(is_op(node, "div", "div_") and is_op(node.args[1], "sum") for node in region)
    attrs: dict[str, Any] = {"experts": operands["gate_up"].tensor.shape[0], "normalise": normalises}
    for node in region:
        if is_op(node, "topk"):
            attrs["top_k"] = node.args[1]
        elif is_op(node, "silu", "gelu", "relu"):
            attrs["function"] = str(getattr(node.target, "_opname", ""))
    return attrs
