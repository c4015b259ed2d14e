"""Functions of one element; ReLU alone has hardware: its own rounding to its own format (hw/requantize)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, need, one_of
from mase.ops.requantize import Requantize

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


@OPS.add("activation")
@dataclass(frozen=True, eq=False)
class Activation(Requantize):
    """y = f(x), element by element, rounded to the result's format; hardware for relu.

    Attributes: function, and where it has some: slope, alpha, beta, threshold, low, high, exponent. Operand of prelu:
    weight.
    """

    kind: ClassVar[str] = "activation"
    family: ClassVar[Family] = "function"

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return FUNCTIONS[record.attrs["function"]](inputs[0], {**record.attrs, **operands})

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
    def not_negative(cls, node: OpNode) -> bool:
        return node.record.attrs.get("function") == "relu"

    @classmethod
    def builds(cls, record: Record) -> bool:
        return record.attrs.get("function") == "relu"

    @classmethod
    def relu(cls, record: Record) -> bool:
        return True
