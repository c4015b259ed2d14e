"""conv: every convolution with parameters, also transposed and with a padding by name."""

from __future__ import annotations

from typing import Any

from mase.frontend.lift.nodes import Node, arguments, integers, op
from mase.frontend.lift.work import Typed, Work, rule


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv(work: Work, node: Node) -> Typed | None:
    """Match a convolution whose weight is a parameter."""
    given = arguments(node)
    weight, bias = work.param(given["weight"]), work.param(given["bias"])
    if weight is None or (bias is None and given["bias"] is not None):
        return None
    sizes = weight.tensor.ndim - 2
    padding = given["padding"]
    attrs: dict[str, Any] = {
        "stride": spread(given["stride"], sizes),
        "padding": padding if isinstance(padding, str) else spread(padding, sizes),
        "dilation": spread(given["dilation"], sizes),
        "groups": given["groups"],
    }
    if op(node).startswith("conv_transpose"):
        attrs |= {"transposed": True, "output_padding": spread(given["output_padding"], sizes)}
    return Typed("conv", (given["input"],), attrs, {"weight": weight} | ({} if bias is None else {"bias": bias}))


def spread(values: Any, count: int) -> list[int]:
    """Return one number an axis, from one for all or from one each."""
    found = integers(values) or []
    return found * count if len(found) == 1 else found
