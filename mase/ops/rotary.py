"""Rotary position embedding: pairs of features turn by angles that grow with the position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, one_of
from mase.ops.operations import Operations, each

FORMS = ("half", "interleaved")


@OPS.add("rotary")
class Rotary(Op):
    """y = x * cos + turned(x) * sin on the first features; those beyond the last of cos pass.

    Inputs: x (query or key), cos, sin, which broadcast to it. Attributes: head_size; form, ``half`` where feature i
    pairs with i + size/2, ``interleaved`` where 2i pairs with 2i + 1.
    """

    kind: ClassVar[str] = "rotary"
    family: ClassVar[Family] = "function"
    arity: ClassVar[tuple[int, int]] = (3, 3)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        x, cos, sin = inputs
        size = cos.shape[-1]
        part, rest = x[..., :size], x[..., size:]
        turn = TURNS[record.attrs.get("form", "half")]
        y = (part * cos) + (turn(part) * sin)
        return torch.cat((y, rest), -1) if rest.shape[-1] else y

    @classmethod
    def looks(cls, record: Record, index: int) -> bool | None:
        return None

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        x, cos = (source.record.output.shape for source in node.inputs[:2])
        return each((*x[:-1], cos[-1]), 3)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        one_of(node, "form", FORMS, "half")
        x, cos, sin = (source.record.output.shape for source in node.inputs)
        if cos != sin or cos[-1] > x[-1] or cos[-1] % 2:
            raise GraphError(f"{node.where()}: input is {x}, cos {cos}, sin {sin}; these do not fit")


def _half(x: Tensor) -> Tensor:
    low, high = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-high, low), -1)


def _interleaved(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


TURNS = {"half": _half, "interleaved": _interleaved}
