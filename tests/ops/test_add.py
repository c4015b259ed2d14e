"""The kind add: two inputs, a parameter or a number on either side; on chip sums of two tensors, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.blocks.pair import Pairing, Scale
from mase.errors import UnsupportedOp
from mase.formats import Code, QuantParams, parse
from mase.frontend.module import trace_module
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.quantize import NodeFormats, QuantizeConfig, quantize
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


def test_a_constant_is_refused_by_name() -> None:
    x = branches.draw(6, 5)
    model = nn.Sequential(nn.ReLU(), Plus())
    graph = branches.quantized(model, x, "fixed6.3", {"*": "fixed6.3"})
    with pytest.raises(UnsupportedOp, match=r"node '1\.add' .*: has no hardware; supported"):
        build(graph)


class Plus(nn.Module):
    """One more."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1.0


def test_broadcasting_is_refused_by_name() -> None:
    x = branches.draw(6, 5, 3)
    model = Joined(torch.add, nn.ReLU(), First())
    graph = trace_module(model.eval(), (x,))[0]
    with pytest.raises(UnsupportedOp, match=r"the shapes \(6, 1, 3\) and \(6, 5, 3\) differ"):
        quantize.run(graph, QuantizeConfig(NodeFormats("fixed6.3", "fixed6.3")), [x])


class First(nn.Module):
    """The first row."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].relu()
