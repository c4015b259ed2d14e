"""The kind add: two inputs, a parameter or a number on either side; on chip sums of two tensors, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

A, B = draw(2, 3), draw(3, seed=1)


def test_every_second_operand_on_either_side() -> None:
    for function, f in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
        attrs = {"function": function}
        assert torch.equal(compute("add", (A, B), attrs), f(A, B))
        assert torch.equal(compute("add", (A,), attrs, other=B), f(A, B))
        assert torch.equal(compute("add", (A,), {**attrs, "reverse": True}, other=B), f(B, A))
        assert torch.equal(compute("add", (A,), {**attrs, "value": 3}), f(A, 3))
        assert torch.equal(compute("add", (A,), {**attrs, "value": 0.3, "reverse": True}), f(0.3, A))


def test_one_second_operand_is_needed() -> None:
    refused("has 0 second operands; allowed is 1", "add", (A,))
    refused("has 2 second operands; allowed is 1", "add", (A, B), {"value": 1})
    refused("has 3 inputs; allowed is 1 to 2", "add", (A, B, B))
    refused("function 'max'; allowed: ", "add", (A, B), {"function": "max"})


# -- on chip ----------------------------------------------------------------------------------------------------------


def joined(
    join: Callable[[Tensor, Tensor], Tensor],
    formats: tuple[str, str, str],
    shape: tuple[int, ...],
    lanes: int,
    rounding: str = "even",
) -> Mapped:
    """Return join(x, f(x)) with formats of x, of f(x) and of the result; f is a ReLU, or a layer for wide windows."""
    wide = "e" not in formats[0] and "mxint" in formats[0]
    torch.manual_seed(lanes)
    right = nn.Linear(shape[-1], shape[-1]) if wide else nn.ReLU()
    model, x = Joined(join, nn.Identity(), right), branches.draw(6, *shape, seed=lanes)
    given = {
        "right": NodeFormats(formats[0] if wide else None, output=formats[1]),
        "[as]*": NodeFormats(output=formats[2], rounding=rounding),
    }  # add or sub
    return branches.mapped(branches.quantized(model, x, formats[0], given), x, {"[as]*": (lanes, lanes)})


def backwards(a: Tensor, b: Tensor) -> Tensor:
    return b - a


def then_relu(a: Tensor, b: Tensor) -> Tensor:
    return torch.relu(a - b)


@cache
def sums() -> Mapping[str, Mapped]:
    """Return sums of every class of formats: finer and coarser units, dyadics, exponents shifted and cut."""
    return {
        "fixed": joined(torch.add, ("fixed6.4", "fixed5.2", "fixed4.1"), (7,), 3),
        "finer": joined(torch.sub, ("ufixed5.1", "fixed6.5", "fixed9.6"), (2, 5), 2, "half_up"),
        "scales": joined(torch.add, ("int5", "int6", "int4"), (3, 4), 4, "trunc"),
        "mixed": joined(backwards, ("fixed6.3", "int7", "ufixed5.3"), (5,), 1),
        "blocks": joined(torch.add, ("mxint5b4e3", "mxint4b2e2", "mxint4b8e3"), (2, 9), 2),
        "relu": joined(then_relu, ("mxint4b4e2", "fixed6.4", "fixed5.2"), (6,), 4),
        "cut": joined(torch.add, ("mxint6b4", "mxint5b2", "mxint5b4"), (2, 6), 2),
        "cut_far": joined(torch.sub, ("mxint6b4", "fixed6.2", "int5"), (5,), 1, "half_up"),
    }


class TestLaws(OpLaws):
    kind = "add"

    def graphs(self) -> Mapping[str, Mapped]:
        return {**sums(), "itself": itself()}


@cache
def itself() -> Mapped:
    """Return x + x, where both inputs are one tensor."""
    x = branches.draw(6, 5)
    return branches.mapped(branches.quantized(Doubled(), x, "fixed6.3", {"add": "fixed7.3"}), x)


class Doubled(nn.Module):
    """Twice the input."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x


def test_the_sum_is_rounded_once() -> None:
    """3/16 + 1/4 is 7/16, a half step above 3/8 is to even 1/2; two roundings would give 1/4 + 1/4 or 1/8 + 1/4."""
    a, b = (parse(text).grid(QuantParams(), "here") for text in ("fixed6.4", "fixed5.2"))
    y = parse("fixed6.3").grid(QuantParams(), "here")
    pairing, out = Pairing.of_sum(a, b, y, Scale(), False, False, "even", "here")
    assert (pairing.a.shift, pairing.b.shift, pairing.guard) == (0, 2, None)
    found = out.apply(pairing.integers(Code(torch.tensor([[3]])), Code(torch.tensor([[1]]))))
    assert found.mantissa.tolist() == [[4]]  # 3.5 to even


def test_real_scales_share_one_shift() -> None:
    a = b = parse("int8").grid(QuantParams(scale=torch.tensor(1.0)), "here")
    scales = [torch.tensor(value, dtype=torch.float64) for value in (0.3, 0.01, 1.0)]
    pairing, out = Pairing.of_sum(a, b, a, Scale(*scales), False, False, "even", "here")
    assert (pairing.a.mult, pairing.b.mult, out.shift) == (39322, 1311, 17)
    with pytest.raises(UnsupportedOp, match="times below the largest"):
        Pairing.of_sum(a, b, a, Scale(scales[0], scales[1] / 1e6, scales[2]), False, False, "even", "here")


def test_a_cut_term_rounds_down() -> None:
    """Exponents 20 apart: eight bits are kept below the greater term, and -1 / 2**12 becomes -1, one down."""
    fmt = parse("mxint8b1")
    grid = fmt.grid(fmt.calibrate(torch.ones(1, 1)), "here")
    pairing, _ = Pairing.of_sum(grid, grid, grid, Scale(), False, False, "even", "here")
    assert (pairing.guard, pairing.bits) == (8, 17)
    one, small = (Code(torch.tensor([[m]]), torch.tensor([[grid.base + e]])) for m, e in ((64, 20), (-1, 0)))
    assert pairing.integers(one, small).tolist() == [[float(((64 << 8) - 1) << 20)]]
    assert pairing.scalar(64, 20, -1, 0) == ((64 << 8) - 1) << 20


# -- beside a constant ------------------------------------------------------------------------------------------------


class Beside(nn.Module):
    """A function of the input and a constant."""

    def __init__(self, function: Callable[[Tensor, Any], Tensor], constant: Tensor | float) -> None:
        super().__init__()
        self.function = function
        self.constant: Tensor | float
        if isinstance(constant, Tensor):
            self.register_buffer("constant", constant)
        else:
            self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.constant)


def beside(model: nn.Module, x: Tensor, source: str, target: NodeFormats | str, lanes: int) -> Mapped:
    """Return the graph of one function."""
    graph = branches.quantized(model, x, source, {"*": target})
    return branches.mapped(graph, x, {"*": (lanes, lanes)})


@cache
def constants() -> Mapping[str, Mapped]:
    """Return sums with numbers, with a vector, with one number an element, with a number a channel; both ways round."""
    each, channel = draw(2, 5, seed=3), draw(3, 1, 1, seed=4)
    half_up = NodeFormats(output="fixed6.2", rounding="half_up")
    return {
        "number": beside(Beside(torch.add, 0.75), draw(6, 5), "fixed6.4", half_up, 2),
        "vector": beside(Beside(torch.sub, draw(5, seed=2)), draw(6, 2, 5), "int6", "int5", 3),
        "each": beside(Beside(backwards, each), draw(6, 2, 5), "fixed5.3", "mxint5b4e3", 4),
        "channel": beside(Beside(torch.add, channel), draw(6, 3, 2, 2), "mxint4b2e3", "fixed6.3", 2),
        "relu": beside(Beside(then_relu, 1), draw(6, 7), "e2m1", "ufixed5.2", 1),
    }


class TestConstants(OpLaws):
    kind = "add"

    def graphs(self) -> Mapping[str, Mapped]:
        return constants()


def test_a_constant_is_exact_where_the_grids_hold_it() -> None:
    x = branches.draw(6, 5)
    graph = branches.quantized(Beside(backwards, 0.75), x, "fixed6.3", {"*": "fixed9.3"})
    given = parse("fixed6.3").quantize(x)
    assert torch.equal(graph(x), 0.75 - given)


@pytest.mark.parametrize(
    ("constant", "why"),
    [
        (draw(6, 1), r"the constant of shape \(6, 1\) differs between samples; allowed is one for all samples"),
        (draw(4, 1, 5), r"the constant of shape \(4, 1, 5\) spreads the input of shape \(6, 5\) over \(4, 6, 5\)"),
        (float("inf"), "the shift of a channel is infinite or NaN; allowed are finite numbers"),
    ],
)
def test_a_constant_that_no_unit_takes_is_refused_by_name(constant: Tensor | float, why: str) -> None:
    x = branches.draw(6, 5)
    graph = branches.quantized(Beside(torch.add, constant), x, "fixed6.3", {"*": "fixed6.3"})
    with pytest.raises(UnsupportedOp, match=rf"node 'add' .*: {why}"):
        build(graph)


# -- a smaller input --------------------------------------------------------------------------------------------------


class Part(nn.Module):
    """The first of some axes, through a ReLU."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        for axis in self.axes:
            x = x.narrow(axis, 0, 1)
        return x.relu()


def spread(join: Callable[[Tensor, Tensor], Tensor], axes: tuple[int, ...], *how: Any) -> Mapped:
    """Return join(x, part of x); how: formats of the input and the result, shape, lanes."""
    source, target, shape, lanes = how
    x = branches.draw(6, *shape, seed=lanes)
    model = Joined(join, nn.ReLU(), Part(*axes))
    return branches.mapped(
        branches.quantized(model, x, source, {"[as]*": target}, source), x, {"[as]*": (lanes, lanes)}
    )


@cache
def smaller() -> Mapping[str, Mapped]:
    """Return sums of rows with a row, of images with a pixel, of elements with the first of their row."""
    return {
        "row": spread(torch.add, (1,), "fixed6.4", "fixed6.3", (3, 5), 2),
        "pixel": spread(torch.sub, (2, 3), "mxint4b2e3", "fixed6.4", (4, 2, 3), 2),
        "first": spread(backwards, (1,), "int5", "int6", (5,), 1),
    }


class TestSmaller(OpLaws):
    kind = "add"

    def graphs(self) -> Mapping[str, Mapped]:
        return smaller()


def test_a_smaller_input_is_spread_as_in_float() -> None:
    x = branches.draw(6, 4, 2, 3)
    graph = branches.quantized(Joined(torch.add, nn.ReLU(), Part(2, 3)), x, "fixed6.3", {"*": "fixed8.3"})
    given = parse("fixed6.3").quantize(x).relu()
    assert torch.equal(graph(x), given + given[:, :, :1, :1])


def test_spreading_that_no_block_gives_is_refused_by_name() -> None:
    x = branches.draw(6, 6, 3)
    across = branches.quantized(Joined(torch.add, nn.ReLU(), Rows()), x, "fixed6.3", {"*": "fixed6.3"})
    with pytest.raises(UnsupportedOp, match=r"input 'relu' of shape \(6, 3\) is spread over .* across samples"):
        build(across)
    inside = branches.quantized(
        Joined(torch.add, nn.ReLU(), nn.Linear(3, 1)), x, "mxint4b2e3", {"*": NodeFormats("int5", output="mxint4b2e3")}
    )
    with pytest.raises(UnsupportedOp, match=r"spread over \(6, 6, 3\), which breaks blocks of 2"):
        build(inside)


class Rows(nn.Module):
    """The first row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].relu()
