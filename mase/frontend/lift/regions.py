"""One node for a whole module: blocks of experts, and modules that say by a method which kind they are."""

from __future__ import annotations

from torch import Tensor, nn

from mase.frontend.lift.moe import block_of_experts, routing
from mase.frontend.lift.nodes import Node, calls, value
from mase.frontend.lift.outline import outline, plainly
from mase.frontend.lift.work import Param, Typed, Work
from mase.frontend.modules import Lift
from mase.frontend.values import OUTLINE
from mase.graph import META


def outline_modules(work: Work) -> None:
    """Make one node of every call of a module that is one kind as a whole; what it computes becomes the node's body."""
    for path, module in work.modules.items():
        said = _said(module)
        if said is None:
            continue
        for call in sorted({c for node in work.graph.nodes for c in calls(node) if c.split("@")[0] == path}):
            region = [node for node in work.graph.nodes if call in calls(node) and node.op == "call_function"]
            found = _node(work, path, said, [node for node in region if META not in node.meta])
            if isinstance(found, str):
                work.refused[path] = found
            else:
                work.type_node(*found)


def _said(module: nn.Module) -> Lift | None:
    declared = getattr(type(module), OUTLINE, None)
    if callable(declared):
        lift: Lift = declared(module)
        return lift
    return block_of_experts(module)


def _node(work: Work, path: str, said: Lift, region: list[Node]) -> tuple[Node, Typed] | str:
    """Read one call of a module; a text says why it cannot be one node."""
    inside = set(region)
    left = [node for node in region if any(user not in inside for user in node.users)]
    results = [node for node in left if isinstance(value(node), Tensor)]  # sizes are computed again outside
    reads = dict.fromkeys(n for node in region for n in node.all_input_nodes if n not in inside)
    ports = [n for n in reads if n.op != "get_attr" and isinstance(value(n), Tensor)]
    if len(results) != 1 or not ports:
        return f"has {len(ports)} inputs and {len(results)} results; one node has some inputs and one result"
    operands = _operands(work, path, said, [str(n.target) for n in reads if n.op == "get_attr"])
    missing = set(said.operands) - set(operands)
    if missing:
        return f"{', '.join(sorted(missing))}: not read as a parameter"
    attrs = {**(routing(region) if said.kind == "moe" else {}), **said.attrs}
    names = ("x",) if len(ports) == 1 else tuple(f"port_{i}" for i in range(len(ports)))
    body = outline(work, inside, ports, results[0])
    return results[0], plainly(work, results[0], Typed(said.kind, tuple(ports), attrs, operands, names, path, body))


def _operands(work: Work, path: str, said: Lift, read: list[str]) -> dict[str, Param]:
    """Return the parameters that a module reads, by role; those without a role keep their name in the module."""
    prefix = f"{path}." if path else ""
    keys = {work.aliases.get(prefix + name, ""): role for role, name in said.operands.items()}
    own = [key for key in read if key in work.aliases and key.startswith(prefix)]
    roles = [*(key for key in keys if key in read), *(key for key in own if key not in keys)]
    return {keys.get(key, key.removeprefix(prefix)): Param(key, work.tensors[key]) for key in roles}
