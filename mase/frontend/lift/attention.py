"""attention: PyTorch's one function, or scores, softmax and product as models write them; shared key heads are seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from mase.frontend.lift.fold import masks
from mase.frontend.lift.nodes import Node, arguments, dtype_name, is_op, number, same, symbolic, value
from mase.frontend.lift.outline import outline, plainly
from mase.frontend.lift.work import Typed, Work, rule

RESHAPES = ("view", "reshape", "_unsafe_view")
BETWEEN = ("to", "_to_copy", "type_as", "dropout")  # may stand between the softmax and the product


@rule("scaled_dot_product_attention", pattern=True)
def fused(work: Work, node: Node) -> Typed | None:
    """Match PyTorch's function; a mask that is causal becomes an attribute, one that hides nothing is dropped."""
    given = arguments(node)
    query, mask, causal = given["query"], given["attn_mask"], given["is_causal"]
    if given["dropout_p"] or len(symbolic(query)) != 4:
        return None
    key, value_ = shared(given["key"]), shared(given["value"])
    hidden = masks(work, mask) if mask is not None and not causal and not work.keep_masks else "some"
    if hidden != "some":
        mask, causal = None, hidden == "later"
    attrs = heads(query, key) | {"causal": causal, "scale": given["scale"], "form": "fused"}
    if not given["enable_gqa"] and not same(symbolic(query)[1], symbolic(given["key"])[1]):
        attrs["broadcast"] = True
    return _attention((query, key, value_, mask), attrs)


@dataclass(frozen=True, eq=False)
class _Scores:
    """What stands between two products: scale, soft cap, and a mask that is added."""

    product: Node
    scale: float
    cap: float | None
    mask: Node | None
    nodes: tuple[Node, ...]


@rule("matmul", pattern=True)
def written(work: Work, node: Node) -> Typed | None:
    """Match ``softmax(query key^T * scale + mask) value``; what eager computes becomes the body of the node."""
    shares, between = node.args[0], []
    if work.inside:
        return None
    while is_op(shares, *BETWEEN):
        between.append(shares)
        shares = shares.args[0]
    if not is_op(shares, "softmax", "_softmax") or len(symbolic(node)) != 4 or shares.args[1] not in (-1, 3):
        return None
    found = _scores(shares.args[0])
    if found is None or len(symbolic(found.product.args[0])) != 4:
        return None
    query, turned = found.product.args
    if not _turns(turned):
        return None
    key, value_ = turned.args[0], node.args[1]
    inner = (node, *between, shares, *found.nodes, found.product, turned)
    key, value_, inner = shared(key), shared(value_), (*inner, *_repeats(key), *_repeats(value_))
    attrs = heads(query, key) | {"causal": False, "scale": found.scale, "form": "scores"}
    if found.mask is not None:
        attrs["masks_later"] = masks(work, found.mask) == "later"
    if found.cap is not None:
        attrs["cap"] = found.cap
    if arguments(shares).get("dtype") is not None:
        attrs["dtype"] = dtype_name(arguments(shares)["dtype"])
    ports = tuple(port for port in (query, key, value_, found.mask) if port is not None)
    body = outline(work, set(inner), ports, node)
    return plainly(work, node, _attention((query, key, value_, found.mask), attrs, body))


def _attention(ports: tuple[Any, ...], attrs: dict[str, Any], body: Any = None) -> Typed:
    names = ("query", "key", "value", "mask")
    given = {name: port for name, port in zip(names, ports, strict=True) if port is not None}
    return Typed("attention", tuple(given.values()), attrs, ports=tuple(given), body=body)


def heads(query: Node, key: Node) -> dict[str, Any]:
    """Return the numbers of query heads and of key heads, and the size of one."""
    q, k = symbolic(query), symbolic(key)
    return {"heads": number(q[1]), "kv_heads": number(k[1]), "head_size": number(q[3])}


def shared(node: Node) -> Node:
    """Return the keys or values before they were repeated for the query heads that share them."""
    chain = _repeats(node)
    return chain[-1].args[0] if chain else node


def _repeats(node: Node) -> tuple[Node, ...]:
    """Return the nodes that repeat every head: unsqueeze, expand, reshape, from the last to the first."""
    if not is_op(node, *RESHAPES):
        return ()
    spread = node.args[0].args[0] if is_op(node.args[0], "clone") else node.args[0]
    if not is_op(spread, "expand") or not is_op(spread.args[0], "unsqueeze"):
        return ()
    single = spread.args[0]
    before, wide, after = symbolic(single.args[0]), symbolic(spread), symbolic(node)
    fits = len(before) == 4 and len(wide) == 5 and arguments(single)["dim"] == 2 and len(after) == 4
    if (
        not fits
        or not same(after[0], before[0])
        or not all(same(a, b) for a, b in zip(after[2:], before[2:], strict=True))
    ):
        return ()
    return (node, spread, single)


def _turns(node: Any) -> bool:
    """Tell whether a node swaps the last two axes of four."""
    if is_op(node, "transpose"):
        return {axis % 4 for axis in node.args[1:]} == {2, 3} and len(symbolic(node)) == 4
    return is_op(node, "permute") and [axis % 4 for axis in node.args[1]] == [0, 1, 3, 2]


def _scores(node: Node) -> _Scores | None:
    """Read back from the softmax's argument to the product of queries and keys."""
    scale, cap, mask, nodes = 1.0, None, None, []
    while not is_op(node, "matmul"):
        nodes.append(node)
        if is_op(node, "mul", "div") and isinstance(node.args[1], int | float):
            scale *= node.args[1] if is_op(node, "mul") else 1 / node.args[1]
        elif is_op(node, "add") and mask is None and all(isinstance(arg, fx.Node) for arg in node.args):
            mask = node.args[1]
        elif is_op(node, "tanh") and cap is None and is_op(node.args[0], "div"):
            node, scale = node.args[0], 1.0  # the factor after it is the cap again
            nodes.append(node)
            cap = float(node.args[1])
        elif not is_op(node, *BETWEEN):
            return None
        node = node.args[0]
        if not isinstance(node, fx.Node) or value(node) is None or not isinstance(value(node), torch.Tensor):
            return None
    return _Scores(node, scale, cap, mask, tuple(nodes))
