"""The kind mul: two inputs, a parameter or a number on either side; on chip products of two tensors, rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mase.blocks.pair import Pairing, Scale
from mase.errors import UnsupportedOp
from mase.formats import Code, QuantParams, parse
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.quantize import NodeFormats
from tests.ops import branches
from tests.ops.branches import Joined
from tests.ops.single import compute, draw, refused
from tests.ops.test_add import Beside, beside

A, B = draw(2, 3), draw(3, seed=1)


def test_every_second_operand_on_either_side() -> None:
    for function, f in (("mul", lambda a, b: a * b), ("div", lambda a, b: a / b)):
        attrs = {"function": function}
        assert torch.equal(compute("mul", (A, B), attrs), f(A, B))
        assert torch.equal(compute("mul", (A,), attrs, other=B), f(A, B))
        assert torch.equal(compute("mul", (A,), {**attrs, "reverse": True}, other=B), f(B, A))
        assert torch.equal(compute("mul", (A,), {**attrs, "value": 3}), f(A, 3))
        assert torch.equal(compute("mul", (A,), {**attrs, "value": 0.3, "reverse": True}), f(0.3, A))


def test_one_second_operand_is_needed() -> None:
    refused("has 0 second operands; allowed is 1", "mul", (A,))
    refused("has 2 second operands; allowed is 1", "mul", (A, B), {"value": 1})
    refused("has 3 inputs; allowed is 1 to 2", "mul", (A, B, B))
    refused("function 'max'; allowed: ", "mul", (A, B), {"function": "max"})


# -- on chip ----------------------------------------------------------------------------------------------------------


def joined(formats: tuple[str, str, str], shape: tuple[int, ...], lanes: int, rounding: str = "even") -> Mapped:
    """Return x * relu(x) with formats of x, of the ReLU and of the result."""
    model, x = Joined(torch.mul, nn.Identity(), nn.ReLU()), branches.draw(6, *shape, seed=lanes)
    given = {"right": formats[1], "mul": NodeFormats(output=formats[2], rounding=rounding)}
    return branches.mapped(branches.quantized(model, x, formats[0], given), x, {"mul": (lanes, lanes)})


@cache
def products() -> Mapping[str, Mapped]:
    """Return products of every class of formats."""
    return {
        "fixed": joined(("fixed6.4", "ufixed5.4", "fixed6.3"), (7,), 3, "trunc"),
        "scales": joined(("int5", "int6", "int4"), (3, 4), 4, "half_up"),
        "one_scale": joined(("fixed5.3", "int4", "fixed7.5"), (5,), 1),
        "blocks": joined(("mxint5b4e3", "mxint4b2e2", "mxint4b8e3"), (2, 9), 2),
        "wide": joined(("mxint4b2e5", "fixed6.4", "int5"), (6,), 4),
        "gate": joined(("int5", "int4", "mxint5b4"), (2, 3), 2),
    }


class TestLaws(OpLaws):
    kind = "mul"

    def graphs(self) -> Mapping[str, Mapped]:
        return products()


def test_a_product_by_hand() -> None:  # 5/16 * 3/4 = 15/64, 3.75 sixteenths
    a, b, y = (parse(text).grid(QuantParams(), "here") for text in ("fixed6.4", "fixed5.2", "fixed6.4"))
    pairing, out = Pairing.of_product(a, b, y, Scale(), False, "even", "here")
    assert (pairing.bits, out.shift, out.mult_bits) == (11, 2, 0)
    found = out.apply(pairing.integers(Code(torch.tensor([[5]])), Code(torch.tensor([[3]]))))
    assert found.mantissa.tolist() == [[4]]


def test_scales_multiply() -> None:
    grid = parse("int8").grid(QuantParams(scale=torch.tensor(1.0)), "here")
    scales = [torch.tensor(value, dtype=torch.float64) for value in (0.5, 0.25, 2.0)]
    _, out = Pairing.of_product(grid, grid, grid, Scale(*scales), False, "even", "here")
    assert out.multiplier is not None
    assert int(out.multiplier[0]) / 2**out.shift == 0.5 * 0.25 / 2.0


def test_a_product_that_is_too_wide_is_refused() -> None:
    grid = parse("fixed32.8").grid(QuantParams(), "here")
    with pytest.raises(UnsupportedOp, match="takes 64 bits; allowed are 62"):
        Pairing.of_product(grid, grid, grid, Scale(), False, "even", "here")


# -- beside a constant, and over a smaller input ----------------------------------------------------------------------


@cache
def constants() -> Mapping[str, Mapped]:
    """Return products with numbers and vectors, a quotient, and channels that are scaled by a mean of their pixels."""
    image = branches.draw(6, 4, 2, 3)
    excited = branches.quantized(Excited(), image, "fixed6.4", {"*": "fixed6.4"})
    return {
        "number": beside(Beside(torch.mul, 3), draw(6, 5), "fixed6.4", "fixed6.2", 2),
        "vector": beside(Beside(torch.mul, draw(5, seed=2)), draw(6, 2, 5), "int6", "mxint4b2e3", 4),
        "quotient": beside(Beside(torch.div, 3.0), draw(6, 7), "mxint5b2e2", "int5", 2),
        "excited": branches.mapped(excited, image, {"*mul*": (2, 2)}),
    }


class TestConstants(OpLaws):
    kind = "mul"

    def graphs(self) -> Mapping[str, Mapped]:
        return constants()


class Excited(nn.Module):
    """Squeeze and excite: each channel times a function of its mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.relu(x.mean((2, 3), keepdim=True))


def test_a_number_that_the_grids_hold_is_exact() -> None:
    x = draw(6, 5)
    graph = branches.quantized(Beside(torch.mul, -2), x, "fixed6.4", {"*": "fixed8.3"})
    assert torch.equal(graph(x), parse("fixed6.4").quantize(x) * -2)


def backwards(a: Tensor, b: Any) -> Tensor:
    return b / a


@pytest.mark.parametrize(
    "model", [Joined(torch.div, nn.ReLU(), nn.Sigmoid()), nn.Sequential(nn.Sigmoid(), Beside(backwards, 2.0))]
)
def test_a_quotient_by_a_tensor_is_refused_by_name(model: nn.Module) -> None:
    graph = branches.quantized(model, draw(6, 5), "fixed6.3", {"*": "fixed6.3"})
    with pytest.raises(UnsupportedOp, match=r"'(1\.)?(true)?div' .* div: has no hardware"):
        build(graph)
