"""A ReLU that stands alone has its own rounding to its own format; every function is its formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.errors import GraphError
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph, Record, TensorType
from mase.netlist import build
from mase.ops.activation import FUNCTIONS, Activation
from mase.ops.base import not_negative
from mase.testing import Mapped, OpLaws
from passes.fuse import fuse
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused


def mapped(source: str, target: str, size: int, lanes: int) -> Mapped:
    torch.manual_seed(size)
    formats = {"0": NodeFormats(output=target)}
    case = Network("relu", [nn.ReLU()], torch.randn(6, size), source, formats, {"0": Folding(lanes, lanes)}).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "relu_fixed": mapped("fixed6.4", "ufixed4.2", 7, 3),
        "relu_int": mapped("int5", "int4", 5, 8),
        "relu_blocks": mapped("mxint5b4e3", "mxint4b4e2", 9, 2),
        "relu_into_blocks": mapped("fixed8.5", "mxint4b8e3", 9, 4),
    }


class TestLaws(OpLaws):
    kind = "activation"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_negative_codes_become_zero_before_the_exponent_is_chosen() -> None:
    # -4 would set the exponent of the block to 2; after the ReLU its maximum is 0.75, exponent -1, step 2**-3.
    source = mapped("fixed8.5", "mxint4b4e3", 4, 4)
    op = build(source.graph).ops["_0"]
    code = op.reference(Code(torch.tensor([[-128, 24, 5, -1]])))
    assert (code.mantissa.tolist(), code.exponent.tolist()) == ([[0, 6, 1, 0]], [[-1]])  # type: ignore[union-attr]


def chain(*layers: nn.Module) -> Graph:
    return trace_module(nn.Sequential(*layers).eval(), (torch.randn(2, 3),))[0]


def test_no_negative_value_is_proven_through_layouts_and_fused_nodes() -> None:
    assert not_negative(chain(nn.ReLU()).node("0"))
    assert not_negative(chain(nn.ReLU(), nn.Unflatten(1, (3, 1))).node("1"))
    assert not not_negative(chain(nn.Linear(3, 3)).node("0"))
    assert not_negative(fuse(chain(nn.Linear(3, 3), nn.ReLU()))[0].node("0"))


def test_a_layout_that_moves_more_than_rows_proves_nothing() -> None:
    class Joined(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((x.relu(), x), 1)

    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x.relu(), (1, 0), value=-1.0)

    for model in (Joined(), Padded()):
        graph = trace_module(model.eval(), (torch.randn(2, 3),))[0]
        assert not not_negative(graph.output.inputs[0])


def test_other_functions_are_refused_by_the_record() -> None:
    graph = chain(nn.ReLU())
    node = graph.node("0")
    with pytest.raises(GraphError, match=r"node '0' .*function 'galu'; allowed: abs, .*gelu, .*relu"):
        graph.replace({node.name: replace(node.record, attrs={"function": "galu"})}).verify()


SINGLE = draw(4, 5).abs() + 0.25  # where every function is defined
GELU_SLOPE = math.sqrt(2 / math.pi)
FORMULAS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "relu_squared": lambda x: x.clamp(min=0) ** 2,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.25 * x),
    "prelu": lambda x: torch.where(x > 0, x, 0.25 * x),
    "elu": lambda x: torch.where(x > 0, x, 0.5 * (x.exp() - 1)),
    "celu": lambda x: torch.where(x > 0, x, 0.5 * ((x / 0.5).exp() - 1)),
    "selu": lambda x: 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * (x.exp() - 1)),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + torch.tanh(GELU_SLOPE * (x + 0.044715 * x**3))) / 2,
    "gelu_new": lambda x: x * (1 + torch.tanh(GELU_SLOPE * (x + 0.044715 * x**3))) / 2,
    "gelu_fast": lambda x: x * (1 + torch.tanh(GELU_SLOPE * (x + 0.044715 * x**3))) / 2,
    "gelu_quick": lambda x: x / (1 + (-1.702 * x).exp()),
    "silu": lambda x: x / (1 + (-x).exp()),
    "mish": lambda x: x * torch.tanh(torch.log1p(x.exp())),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "logsigmoid": lambda x: -torch.log1p((-x).exp()),
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "softplus": lambda x: torch.log1p((2 * x).exp()) / 2,
    "softsign": lambda x: x / (1 + x.abs()),
    "hardsigmoid": lambda x: ((x + 3) / 6).clamp(0, 1),
    "hardswish": lambda x: x * ((x + 3) / 6).clamp(0, 1),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "exp": lambda x: math.e**x,
    "log": lambda x: x.log2() * math.log(2),
    "sqrt": lambda x: x**0.5,
    "rsqrt": lambda x: x**-0.5,
    "square": lambda x: x * x,
    "power": lambda x: x * x * x,
    "reciprocal": lambda x: x**-1,
    "abs": lambda x: x.sign() * x,
    "neg": lambda x: 0 - x,
    "sin": lambda x: (x - math.pi / 2).cos(),
    "cos": lambda x: (x + math.pi / 2).sin(),
    "erf": lambda x: 1 - torch.erfc(x),
}
ATTRS: Mapping[str, Mapping[str, float]] = {
    "leaky_relu": {"slope": 0.25},
    "elu": {"alpha": 0.5},
    "celu": {"alpha": 0.5},
    "softplus": {"beta": 2.0},
    "clamp": {"low": -0.5, "high": 0.5},
    "power": {"exponent": 3},
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_is_its_formula(function: str) -> None:
    x = SINGLE if function in ("log", "sqrt", "rsqrt") else torch.cat((SINGLE, -SINGLE))
    operands = {"weight": torch.tensor([0.25])} if function == "prelu" else {}
    y = compute("activation", (x,), {"function": function, **ATTRS.get(function, {})}, **operands)
    torch.testing.assert_close(
        y.double(), FORMULAS[function](x.double()), rtol=1e-5, atol=1e-6
    )  # float32 against float64


def test_only_relu_has_hardware() -> None:
    records = {f: Record("activation", "a", TensorType((1,)), {"function": f}) for f in FUNCTIONS}
    assert [f for f, record in records.items() if Activation.builds(record)] == ["relu"]


def test_parameters_that_a_function_needs_are_named() -> None:
    refused("has no operand 'weight'", "activation", (SINGLE,), {"function": "prelu"})
    refused("power has no exponent", "activation", (SINGLE,), {"function": "power"})
