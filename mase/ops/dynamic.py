"""Rounding with scales that follow from the data of each token: what weights and activations of few bits run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from mase.errors import FormatError, GraphError
from mase.formats import parse
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op
from mase.ops.operations import Operations, each


@OPS.add("dynamic")
class Dynamic(Op):
    """y = x rounded to a format, whose scales are those of x itself: one a row, or one a group of a row.

    Attributes: ``format``, text of integers with ``c`` (a scale a row) or ``g128`` (one a group of 128); ``axis``,
    along which a row lies: -1, the features of a token, or -2, the tokens of a channel.
    """

    kind: ClassVar[str] = "dynamic"
    family: ClassVar[Family] = "format-change"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        axis, fmt = int(record.attrs["axis"]), parse(str(record.attrs["format"]))
        x = inputs[0].movedim(axis, -1)
        rows = x.reshape(-1, x.shape[-1])
        along = -1 if getattr(fmt, "group", 0) else 0  # rows are the channels
        return fmt.quantize(rows, fmt.calibrate(rows.detach(), along)).reshape(x.shape).movedim(-1, axis)

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        attrs = node.record.attrs
        if attrs.get("axis") not in (-1, -2):
            raise GraphError(f"{node.where()}: axis is {attrs.get('axis')!r}; allowed are -1 and -2")
        try:
            fmt = parse(str(attrs.get("format")))
        except FormatError as fault:
            raise GraphError(f"{node.where()}: {fault}") from None
        if not takes(fmt):
            raise GraphError(f"{node.where()}: format {fmt} has no scale a row; allowed are such as int8c and int8g128")


def takes(fmt: object) -> bool:
    """Tell whether a format has scales a row or a group that data can give."""
    return bool(getattr(fmt, "channel", False) or getattr(fmt, "group", 0))
