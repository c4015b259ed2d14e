"""A transposed convolution whose windows do not overlap is a convolution with kernel 1, and its pixels in other places.

Where the kernel is as large as the stride, each input pixel gives a patch of output pixels of its own. The convolution
gives the pixels of a patch as channels; they then take their places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mase.graph import META, Graph, Json, OpNode, Record, TensorType, typed
from mase.rewrites import REWRITES


@REWRITES.add("transposed")
def transposed(graph: Graph, node: OpNode) -> None:
    """Replace a node whose windows lie side by side; leave any other."""
    if not _side_by_side(node):
        return
    record, patch = node.record, node.record.operands["weight"].shape[2:]
    batch, outputs, *size = record.output.shape
    shape = (batch, outputs * math.prod(patch), *(n // k for n, k in zip(size, patch, strict=True)))
    graph.tensors.update(_plain(node))
    with graph.module.graph.inserting_before(node.node):
        made = graph.module.graph.create_node("call_function", typed, node.node.args, {}, f"{node.name}_by_pixel")
    made.meta = {META: _convolution(record, shape, len(size))}
    node.node.args = (made,)
    attrs: dict[str, Json] = {"function": "patches", "patch": list(patch)}
    node.node.meta[META] = Record("layout", f"{record.path}.patches", record.output, attrs, source=record.source)


def _side_by_side(node: OpNode) -> bool:
    """Tell whether a node is a transposed convolution whose windows neither overlap nor leave gaps or a border."""
    attrs: Mapping[str, Any] = node.record.attrs
    if node.kind != "conv" or not attrs.get("transposed") or node.record.output.format is not None:
        return False
    kernel = [*node.record.operands["weight"].shape[2:]]
    none = [0] * len(kernel)
    whole = all([*attrs.get(name, none)] == none for name in ("padding", "output_padding"))
    spread = any(d != 1 for d, k in zip(attrs.get("dilation", none), kernel, strict=True) if k > 1)
    return whole and not spread and attrs.get("groups", 1) == 1 and [*attrs["stride"]] == kernel


def _convolution(record: Record, shape: tuple[int, ...], axes: int) -> Record:
    """Return the record of the convolution with kernel 1."""
    operands = dict(record.operands)
    operands["weight"] = replace(operands["weight"], shape=(shape[1], operands["weight"].shape[0], *[1] * axes))
    if "bias" in operands:
        operands["bias"] = replace(operands["bias"], shape=(shape[1],))
    ones, zeros = [1] * axes, [0] * axes
    attrs: dict[str, Json] = {"stride": ones, "padding": zeros, "dilation": ones, "groups": 1}
    output = TensorType(shape, record.output.dtype)
    table = {role: f"{record.path}.{role}_by_pixel" for role in operands}
    return replace(record, attrs=attrs, operands=operands, output=output, table=table)


def _plain(node: OpNode) -> dict[str, Tensor]:
    """Return the tensors of the convolution by key: its outputs are (pixel of the patch, output)."""
    record, weight = node.record, node.tensor("weight")
    axes = weight.ndim - 2
    turned = weight.permute(*range(2, weight.ndim), 1, 0)  # [patch, outputs, inputs]
    found = {"weight": turned.reshape(-1, weight.shape[0], *[1] * axes).contiguous()}
    if "bias" in record.operands:
        found["bias"] = node.tensor("bias").repeat(math.prod(weight.shape[2:]))
    return {f"{record.path}.{role}_by_pixel": tensor for role, tensor in found.items()}
