"""Convolution over one, two or three axes, also transposed; the rank of the weight says how many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, need
from mase.ops.operations import Operations

FORWARD = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by rank of the weight
TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
PADDINGS = ("zeros", "reflect", "replicate", "circular")


@OPS.add("conv")
class Conv(Op):
    """y = conv(x, weight) + bias, x ``[batch, channels, ...]``.

    Attributes: stride, padding (numbers, or ``same`` or ``valid``), dilation, groups; padding_mode where it is not
    zeros; transposed, with output_padding.
    """

    kind: ClassVar[str] = "conv"
    family: ClassVar[Family] = "compute"
    weights: ClassVar[tuple[str, ...]] = ("weight", "bias")

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        x, weight, bias, attrs = inputs[0], operands["weight"], operands.get("bias"), record.attrs
        sizes = len(weight.shape) - 2
        stride, padding = attrs.get("stride", [1] * sizes), attrs.get("padding", [0] * sizes)
        dilation, groups = attrs.get("dilation", [1] * sizes), attrs.get("groups", 1)
        if attrs.get("transposed"):
            extra = attrs.get("output_padding", [0] * sizes)
            return TRANSPOSED[weight.ndim](x, weight, bias, stride, padding, extra, groups, dilation)
        if attrs.get("padding_mode", "zeros") != "zeros":
            x = F.pad(x, _around(padding, dilation, weight.shape[2:]), mode=attrs["padding_mode"])
            padding = [0] * sizes
        return FORWARD[weight.ndim](x, weight, bias, stride, padding, dilation, groups)

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        return rank - len(record.operands["weight"].shape) + 1

    @classmethod
    def channels(cls, record: Record) -> int | None:
        sizes = len(record.operands["weight"].shape) - 2
        return None if record.attrs.get("transposed") else len(record.output.shape) - sizes - 1

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        weight, attrs = node.record.operands["weight"].shape, node.record.attrs
        many = node.inputs[0].record.output if attrs.get("transposed") else node.record.output
        return Operations(math.prod(many.shape) * math.prod(weight[1:]))

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        need(node, "weight")
        attrs, weight = node.record.attrs, node.record.operands["weight"].shape
        if len(weight) not in FORWARD:
            raise GraphError(f"{node.where()}: weight has shape {weight}; allowed are 3 to 5 axes")
        if attrs.get("padding_mode", "zeros") not in PADDINGS:
            raise GraphError(f"{node.where()}: padding_mode {attrs['padding_mode']!r}; allowed: {', '.join(PADDINGS)}")
        takes = weight[0] if attrs.get("transposed") else weight[1] * attrs.get("groups", 1)
        found = node.inputs[0].record.output.shape
        if len(found) not in (len(weight), len(weight) - 1) or found[1 - len(weight)] != takes:
            raise GraphError(f"{node.where()}: input is {found}; the weight takes {takes} channels")


def _around(padding: str | Sequence[int], dilation: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return the padding on both sides of each axis, the last axis first, as ``pad`` takes it."""
    sides: list[Any] = []
    for axis in reversed(range(len(kernel))):
        if isinstance(padding, str):
            total = dilation[axis] * (kernel[axis] - 1) if padding == "same" else 0
            sides += [total // 2, total - total // 2]
        else:
            sides += [padding[axis]] * 2
    return sides
