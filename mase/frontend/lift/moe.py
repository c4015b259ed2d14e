"""moe: what a block of transformers is that has a router and experts held as 3-D parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mase.frontend.lift.nodes import Node, is_op, op
from mase.frontend.modules import Lift

EXPERTS = {"gate_up": "experts.gate_up_proj", "down": "experts.down_proj"}  # our roles, names in transformers
ROUTERS = ("gate.weight", "router.weight")
FUNCTIONS = ("silu", "gelu", "relu")


def block_of_experts(block: nn.Module) -> Lift | None:
    """Return what a block is whose child ``experts`` holds the matrices of all experts; None where it has none."""
    held = [_parameter(block, name) for name in EXPERTS.values()]
    if not all(isinstance(tensor, Tensor) and tensor.ndim == 3 for tensor in held):
        return None
    routers = [name for name in ROUTERS if isinstance(_parameter(block, name), Tensor)]
    return Lift("moe", {"experts": len(held[0])}, {**({"router": routers[0]} if routers else {}), **EXPERTS})


def routing(region: Sequence[Node]) -> dict[str, Any]:
    """Read from the calls of a block how many experts a token sees, and how their shares and results are made."""
    found: dict[str, Any] = {
        "normalise": any(is_op(node, "div", "div_") and is_op(node.args[1], "sum") for node in region)
    }
    for node in region:
        if is_op(node, "topk"):
            found["top_k"] = node.args[1]
        elif is_op(node, *FUNCTIONS):
            found["function"] = op(node)
    return found


def _parameter(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found
