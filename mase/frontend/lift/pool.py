"""pool: windows, adaptive windows, and the mean or sum over axes."""

from __future__ import annotations

from typing import Any

from mase.frontend.lift.conv import spread
from mase.frontend.lift.nodes import Node, arguments, integers, op, symbolic
from mase.frontend.lift.work import Typed, Work, rule

REDUCTIONS = ("mean", "sum", "amax", "amin")


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
def window(work: Work, node: Node) -> Typed | None:
    """Match the maximum or the mean of windows."""
    given, name = arguments(node), op(node)
    axes = int(name[-2])
    if given.get("divisor_override") is not None:
        return None
    size = spread(given["kernel_size"], axes)
    attrs: dict[str, Any] = {
        "function": "max" if name.startswith("max") else "average",
        "size": size,
        "stride": spread(given["stride"], axes) or size,
        "padding": spread(given["padding"], axes),
        "ceil": given["ceil_mode"],
    }
    if name.startswith("max"):
        attrs["dilation"] = spread(given["dilation"], axes)
    else:
        attrs["count_padding"] = given["count_include_pad"]
    return Typed("pool", (node.all_input_nodes[0],), attrs)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive(work: Work, node: Node) -> Typed | None:
    """Match the mean of as many windows as the result has elements."""
    size = integers(arguments(node)["output_size"])
    if size is None:
        return None
    return Typed("pool", (node.all_input_nodes[0],), {"function": "adaptive_average", "size": size})


@rule(*REDUCTIONS)
def reduction(work: Work, node: Node) -> Typed | None:
    """Match one number for all elements along some axes."""
    given, x = arguments(node), node.all_input_nodes[0]
    if given.get("dtype") is not None:
        return None
    axes = integers(given["dim"]) if given.get("dim") else list(range(len(symbolic(x))))
    if axes is None:
        return None
    return Typed("pool", (x,), {"function": op(node), "axes": axes, "keepdim": given.get("keepdim", False)})
