"""An activation that stands alone: ReLU as its own rounding to its own format (hw/requantize)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS
from mase.ops.requantize import Requantize

FUNCTIONS = ("relu",)


@OPS.add("activation")
@dataclass(frozen=True, eq=False)
class Activation(Requantize):
    """y = relu(x), rounded to the result's format. Other functions are not typed yet and stay opaque."""

    kind: ClassVar[str] = "activation"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return inputs[0].relu()

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        function = node.record.attrs.get("function")
        if function not in FUNCTIONS:
            raise GraphError(f"{node.where()}: function {function!r}; allowed: {', '.join(FUNCTIONS)}")

    @classmethod
    def relu(cls, record: Record) -> bool:
        return True


def not_negative(node: OpNode) -> bool:
    """Tell whether a producer is proven to give no negative value: after a ReLU, also through layout."""
    if node.kind == "layout" and node.inputs[0].record.output.format == node.record.output.format:
        return not_negative(node.inputs[0])
    return node.record.attrs.get("activation") == "relu" or node.kind == "activation"
