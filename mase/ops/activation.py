"""Functions of one element: by a comparison, by a table, by polynomials, or by slopes of each channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.blocks.table import index_bits
from mase.dataflow.block import Block
from mase.dataflow.grid import stream_grid
from mase.dataflow.work import Foldings
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code, Format, QuantParams
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, HardwareOp, InRow, Passage, Pointwise, need, not_negative, one_of
from mase.ops.lookup import MOST_BITS, Domain, Lookup, fits, most_bits, result_grid, rounding
from mase.ops.operations import Operations, each
from mase.ops.piecewise import Piecewise
from mase.ops.requantize import Requantize
from mase.ops.scaled import Scaled

Function = Callable[[Tensor, Mapping[str, Any]], Tensor]

FUNCTIONS: Mapping[str, Function] = {
    "relu": lambda x, a: x.relu(),
    "relu6": lambda x, a: F.relu6(x),
    "relu_squared": lambda x, a: F.relu(x).square(),
    "leaky_relu": lambda x, a: F.leaky_relu(x, a.get("slope", 0.01)),
    "prelu": lambda x, a: F.prelu(x, a["weight"]),
    "elu": lambda x, a: F.elu(x, a.get("alpha", 1.0)),
    "celu": lambda x, a: F.celu(x, a.get("alpha", 1.0)),
    "selu": lambda x, a: F.selu(x),
    "gelu": lambda x, a: F.gelu(x),
    "gelu_tanh": lambda x, a: F.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x, a: x * torch.sigmoid(1.702 * x),
    "gelu_new": lambda x, a: (
        0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "gelu_fast": lambda x, a: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "silu": lambda x, a: F.silu(x),
    "mish": lambda x, a: F.mish(x),
    "sigmoid": lambda x, a: torch.sigmoid(x),
    "logsigmoid": lambda x, a: F.logsigmoid(x),
    "tanh": lambda x, a: torch.tanh(x),
    "softplus": lambda x, a: F.softplus(x, a.get("beta", 1.0), a.get("threshold", 20.0)),
    "softsign": lambda x, a: F.softsign(x),
    "hardsigmoid": lambda x, a: F.hardsigmoid(x),
    "hardswish": lambda x, a: F.hardswish(x),
    "clamp": lambda x, a: torch.clamp(x, a.get("low"), a.get("high")),
    "exp": lambda x, a: torch.exp(x),
    "log": lambda x, a: torch.log(x),
    "sqrt": lambda x, a: torch.sqrt(x),
    "rsqrt": lambda x, a: torch.rsqrt(x),
    "square": lambda x, a: torch.square(x),
    "power": lambda x, a: torch.pow(x, a["exponent"]),
    "reciprocal": lambda x, a: torch.reciprocal(x),
    "abs": lambda x, a: torch.abs(x),
    "neg": lambda x, a: torch.neg(x),
    "sin": lambda x, a: torch.sin(x),
    "cos": lambda x, a: torch.cos(x),
    "erf": lambda x, a: torch.erf(x),
}  # by name: what eager computes, on the input and the attributes (prelu: with its weight)


NARROWER = f"fixed{MOST_BITS}"  # what a table takes in place of wider inputs
NOT_NEGATIVE = frozenset(
    {"relu", "relu6", "relu_squared", "sigmoid", "hardsigmoid", "softplus", "exp", "sqrt", "rsqrt", "square", "abs"}
)


@OPS.add("activation")
@dataclass(frozen=True, eq=False)
class Activation(InRow, HardwareOp):
    """y = f(x), element by element: relu by a comparison, others by a table, or by polynomials where codes are wide.

    Attributes: function, and where it has some: slope, alpha, beta, threshold, low, high, exponent. Operand of prelu:
    weight.

    Args:
        core: what computes.
    """

    kind: ClassVar[str] = "activation"
    family: ClassVar[Family] = "function"
    implicit: ClassVar[frozenset[str]] = frozenset({"weight"})  # a slope is part of the table

    core: Requantize | Lookup | Piecewise | Scaled

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return FUNCTIONS[record.attrs["function"]](inputs[0], {**record.attrs, **operands})

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return True

    @classmethod
    def passes(cls, node: OpNode) -> Passage | None:
        return Passage() if node.record.attrs["function"] == "relu" else None  # f(x / s) = f(x) / s, s above 0

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return each(node.record.output.shape)

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        function = one_of(node, "function", FUNCTIONS)
        if function == "prelu":
            need(node, "weight")
        if function == "power" and "exponent" not in node.record.attrs:
            raise GraphError(f"{node.where()}: power has no exponent")

    @classmethod
    def epilogue(cls, record: Record) -> str:
        return str(record.attrs["function"])

    @classmethod
    def adapts(cls, record: Record) -> bool:
        return bool(record.attrs["function"] != "relu")

    @classmethod
    def adapted(cls, node: OpNode, fmt: Format, params: QuantParams) -> str | None:
        """Return fixed point of as many bits as a table takes, where the input has too many."""
        try:
            grid = stream_grid(fmt, params, node.where())
        except UnsupportedOp:
            return ""
        compared = grid.block > 0 and _bound(node.record) is not None  # takes any exponents
        taken = compared or _slopes(node) is not None
        return NARROWER if index_bits(grid) > most_bits(grid) and not taken else ""

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        attrs = node.record.attrs
        function = attrs.get("function")
        if function == "clamp":
            return _least(node) >= 0
        even = function == "power" and float(attrs["exponent"]) % 2 == 0
        return even or function in NOT_NEGATIVE

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        function = node.record.attrs["function"]
        if (most := _ceiling(node)) is not None:
            super().check_formats(node)
            Requantize.of(node, relu=True, most=most)
            return
        if (slopes := _slopes(node)) is not None:
            super().check_formats(node)
            Scaled.below(node, slopes)
            return
        least, attrs = _least(node.inputs[0]), _attrs(node)
        domain = Domain(node, least)
        domain.check(node, function, attrs)
        if domain.wide:
            Piecewise.of(node, function, attrs, least, cls.not_negative(node))  # refuses what no polynomials reach
        else:
            result_grid(node)

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        function = node.record.attrs["function"]
        if (most := _ceiling(node)) is not None:
            return cls(Requantize.of(node, relu=True, most=most))
        if (slopes := _slopes(node)) is not None:
            return cls(Scaled.below(node, slopes))
        attrs, least = _attrs(node), _least(node.inputs[0])
        if Domain(node, least).wide:
            return cls(Piecewise.of(node, function, attrs, least, cls.not_negative(node)))
        return cls(Lookup.of(node, function, attrs, least))

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*inputs)

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*inputs)

    @property
    def foldings(self) -> Foldings:
        return self.core.foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return self.core.blocks(simd, pe, fifos)

    def pointwise(self) -> Pointwise | None:
        return self.core.pointwise()

    def warnings(self) -> tuple[str, ...]:
        return self.core.warnings()


def _ceiling(node: OpNode) -> float | None:
    """Return the upper bound of a function that compares: a relu, or one with a bound where no table is big enough."""
    if node.record.attrs["function"] == "relu":
        return math.inf
    fmt = node.inputs[0].record.output.format
    assert fmt is not None
    if fits(stream_grid(fmt, node.inputs[0].params(), node.where())):
        return None
    return _bound(node.record)


def _bound(record: Record) -> float | None:
    """Return the upper bound of a function that is a relu below it."""
    function, attrs = record.attrs["function"], record.attrs
    if function == "relu6":
        return 6.0
    low, high = attrs.get("low"), attrs.get("high")
    if function != "clamp" or low is None or high is None:
        return None
    return float(high) if float(low) == 0 < float(high) else None


def _attrs(node: OpNode) -> Mapping[str, Any]:
    """Return the numbers of a function, the slope of prelu too."""
    if node.record.attrs["function"] != "prelu":
        return node.record.attrs
    return {"weight": float(node.tensor("weight").flatten()[0])}


def _slopes(node: OpNode) -> Tensor | None:
    """Return the slopes of a prelu that has several, float64, in a shape that broadcasts to a sample."""
    if node.record.attrs["function"] != "prelu":
        return None
    slopes = node.tensor("weight").flatten().double()
    if bool((slopes == slopes[0]).all()):
        return None
    return slopes.reshape(-1, *[1] * (len(node.record.output.shape) - 2))  # the channels are axis 0 of a sample


def _least(node: OpNode) -> float:
    """Return a value that no element of an edge is below, as it is proven: the lower bound of a clamp, or 0."""
    attrs, kind = node.record.attrs, node.record.output
    if node.kind != Activation.kind or attrs["function"] != "clamp":
        return 0.0 if not_negative(node) else -math.inf
    low, high = attrs.get("low"), attrs.get("high")
    bound = -math.inf if low is None else float(low) if high is None else float(min(low, high))
    if kind.format is None or math.isinf(bound):
        return bound
    fmt = rounding(kind.format, attrs.get("rounding", "even"), node.where())
    return float(fmt.quantize(torch.tensor([bound], dtype=torch.float64), replace(node.params(), axis=-1)))
