"""A ReLU that stands alone has its own rounding to its own format; every function is its formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.blocks.piecewise import Polynomials
from mase.errors import GraphError, UnsupportedOp
from mase.flow import emulate
from mase.formats import Code, parse
from mase.formats.mxint import MXInt
from mase.frontend.module import trace_module
from mase.graph import Graph, OpNode, TensorType
from mase.interpreter import is_exact
from mase.netlist import build
from mase.ops.activation import FUNCTIONS, Activation
from mase.ops.base import not_negative
from mase.ops.lookup import Domain, Lookup
from mase.ops.piecewise import Piecewise
from mase.testing import Mapped, OpLaws
from passes.fuse import fuse
from passes.map import Folding
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused, single


def mapped(
    source: str,
    target: str,
    size: int | tuple[int, ...],
    lanes: int,
    layer: nn.Module | None = None,
    mode: str = "even",
) -> Mapped:
    torch.manual_seed(7)
    shape = size if isinstance(size, tuple) else (size,)
    formats, folding = {"0": NodeFormats(output=target, rounding=mode)}, {"0": Folding(lanes, lanes)}
    case = Network("activation", [layer or nn.ReLU()], 2 * torch.randn(6, *shape), source, formats, folding).case()
    return Mapped(case.graph, case.code)


def slopes(channels: int) -> nn.PReLU:
    """Return a PReLU with a slope for each channel, one of them below 0."""
    module = nn.PReLU(channels)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.5, 1.75, channels))
    return module


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "relu_fixed": mapped("fixed6.4", "ufixed4.2", 7, 3),
        "relu_int": mapped("int5", "int4", 5, 8),
        "relu_blocks": mapped("mxint5b4e3", "mxint4b4e2", 9, 2),
        "relu_into_blocks": mapped("fixed8.5", "mxint4b8e3", 9, 4),
        "sigmoid_fixed": mapped("fixed8.4", "ufixed8.8", 7, 3, nn.Sigmoid()),  # T[0] is 128: padding shows
        "gelu_into_blocks": mapped("fixed8.4", "mxint6b4e4", (2, 9), 4, nn.GELU()),
        "silu_of_blocks": mapped("mxint5b2e3", "fixed8.4", 5, 4, nn.SiLU(), "trunc"),
        "tanh_int": mapped("int6", "int6", 1, 1, nn.Tanh(), "half_up"),
        "prelu_ten_bits": mapped("fixed10.5", "mxint4b8e3", (3, 5), 8, nn.PReLU()),
        "prelu_channels": mapped("fixed8.4", "fixed8.3", (3, 2, 3), 2, slopes(3)),
        "prelu_features": mapped("int8", "int6", (5,), 3, slopes(5), "half_up"),
        "prelu_of_blocks": mapped("mxint5b2e3", "mxint6b4e3", (3, 5), 4, slopes(3)),
        "hardswish_blocks": mapped("mxint5b4e4", "mxint5b4e4", 8, 8, nn.Hardswish()),
        "gelu_polynomials": mapped("fixed12.8", "fixed8.5", 7, 3, nn.GELU()),
        "sigmoid_polynomials": mapped("int11", "ufixed9.9", (2, 3), 4, nn.Sigmoid(), "half_up"),
        "tanh_polynomials": mapped("ufixed11.9", "mxint5b4e3", 9, 2, nn.Tanh()),
        "leaky_polynomials": mapped("fixed16.10", "int8", 5, 2, nn.LeakyReLU(0.1), "trunc"),
        "gelu_minifloat": mapped("e4m3", "e3m2", 5, 2, nn.GELU()),
        "silu_zero_point": mapped("int6a", "int5a", 3, 2, nn.SiLU()),
        "relu_wide": mapped("mxint8b2", "mxint8b2", 5, 2),
        "relu6_wide": mapped("mxint8b4", "mxint6b2", 7, 4, nn.ReLU6()),
        "relu6_floats": mapped("mxfp8e4m3b2", "mxfp8e4m3b2", 5, 2, nn.ReLU6()),
        "clamp_wide": mapped("mxint8b2", "fixed8.3", 5, 2, nn.Hardtanh(0.0, 1.25)),
        "relu6_images": mapped("ufixed6.3", "ufixed5.2", (3, 2, 2), 2, nn.ReLU6()),
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


# -- tables ------------------------------------------------------------------------------------------------------------

LEAST = {"log": 0.01, "rsqrt": 0.01, "sqrt": 0.0, "reciprocal": 0.01}  # of those with a narrower domain


def formatted(function: str, source: str, target: str, mode: str = "even", **attrs: float) -> OpNode:
    """Return a node with formats that are calibrated on what it computes from a few numbers."""
    operands = {"weight": torch.tensor([0.25])} if function == "prelu" else {}
    x = 2 * draw(64, 4)
    graph = single("activation", (x,), {"function": function, "rounding": mode, **attrs}, **operands)
    y = graph(x).nan_to_num(0, 4, -4).clamp(-99, 99)
    kinds = {graph.node("x0").name: (parse(source), x), graph.node("node").name: (parse(target), y)}
    records = {
        name: replace(graph.node(name).record, output=TensorType(tuple(data.shape), "float32", fmt))
        for name, (fmt, data) in kinds.items()
    }
    quant = {name: fmt.calibrate(data) for name, (fmt, data) in kinds.items()}
    return graph.replace(records, quant=quant).node("node")


def table(function: str, source: str, target: str, mode: str = "even", **attrs: float) -> tuple[Lookup, Domain, OpNode]:
    """Return the table of a function where it is defined, with its inputs."""
    node, least = formatted(function, source, target, mode, **attrs), LEAST.get(function, -math.inf)
    domain = Domain(node, least)
    return Lookup.of(node, function, {"weight": 0.25, **attrs}, least), domain, node


def wide(function: str, source: str, target: str) -> tuple[Piecewise, Domain, OpNode]:
    """Return the polynomials of a function where it is defined, with its inputs."""
    node, least = formatted(function, source, target), LEAST.get(function, -math.inf)
    return Piecewise.of(node, function, {}, least, Activation.not_negative(node)), Domain(node, least), node


@pytest.mark.parametrize(("source", "target"), [("fixed8.5", "fixed8.5"), ("int7", "int6"), ("mxint5b2e3", "fixed9.4")])
@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f != "relu"])
def test_every_word_is_the_code_nearest_to_the_real_value(function: str, source: str, target: str) -> None:
    attrs = ATTRS.get(function, {})
    op, domain, node = table(function, source, target, **attrs)
    fmt, weight = node.record.output.format, {"weight": torch.tensor([0.25]).double()}
    assert fmt is not None
    real = FUNCTIONS[function](torch.tensor(domain.values).double(), {**attrs, **weight})
    code = op.words[domain.index]
    error = (fmt.decode(Code(code), node.params()) - real).abs()
    for other in (-1, 1):  # no neighbour is nearer, but by the error of float64
        near = Code((code + other).clamp(*fmt.code_range()))
        assert bool((error <= (fmt.decode(near, node.params()) - real).abs() + 1e-12 * real.abs()).all())


@pytest.mark.parametrize(
    ("mode", "codes"), [("even", [0, 2, 2, 4]), ("half_up", [1, 2, 3, 4]), ("trunc", [0, 1, 2, 3])]
)
def test_ties_follow_the_node(mode: str, codes: list[int]) -> None:  # |x| of 0.5, 1.5, 2.5, 3.5 in whole numbers
    op, _, _ = table("abs", "fixed5.1", "fixed5.0", mode)
    assert op.words[[1, 3, 5, 7]].tolist() == codes
    assert op.words[[31, 29, 27, 25]].tolist() == codes  # of -0.5 and so on


def test_no_library_of_c_decides_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither torch's functions nor those of ``math`` are called while a table is made."""
    words = table("gelu", "fixed8.5", "fixed8.5")[0].words
    node = formatted("gelu", "fixed8.5", "fixed8.5")
    for module, name in itertools.product((torch, math, torch.nn.functional), ("exp", "erf", "erfc", "gelu", "tanh")):
        monkeypatch.delattr(module, name, raising=False)
    assert torch.equal(Lookup.of(node, "gelu", {}, -math.inf).words, words)


def test_results_in_blocks_keep_their_stated_error() -> None:
    """Half a step of the block, and half a unit of the words."""
    op, domain, node = table("silu", "fixed8.4", "mxint6b4e4")
    fmt = node.record.output.format
    assert isinstance(fmt, MXInt)
    x = torch.tensor(domain.values).reshape(-1, 4)
    code = op.reference(Code(domain.codes.reshape(-1, 4)))
    assert code.exponent is not None
    error = (fmt.decode(code, node.params()) - torch.nn.functional.silu(x)).abs()
    step = 2.0 ** (code.exponent - 4)
    inside = code.mantissa.abs() < 31  # what saturates lies up to a step above the greatest mantissa
    top = int(torch.nn.functional.silu(x).abs().max().log2().floor())
    assert op.out is not None
    assert op.out.unit == max(top - 20, op.y.base - 8)
    assert bool((error <= step / 2 + 2.0 ** (op.out.unit - 1))[inside].all())


WIDE = [
    *(("gelu", "fixed12.8", "fixed8.5"), ("gelu", "fixed16.12", "fixed16.12"), ("silu", "fixed14.9", "fixed12.8")),
    *(("sigmoid", "int12", "ufixed8.8"), ("tanh", "fixed16.12", "fixed16.15"), ("exp", "fixed14.10", "fixed12.4")),
    *(("relu6", "fixed12.6", "fixed8.4"), ("log", "ufixed12.8", "fixed8.4"), ("neg", "fixed11.4", "fixed11.4")),
]


@pytest.mark.parametrize(("function", "source", "target"), WIDE)
def test_polynomials_keep_their_stated_error(function: str, source: str, target: str) -> None:
    """Half a step for the rounding, an eighth for the polynomials with a twentieth on top, 2**-6 for the integers."""
    op, domain, node = wide(function, source, target)
    fmt = node.record.output.format
    assert fmt is not None
    step = float(fmt.decode(Code(torch.tensor([1])), node.params()))
    low, high = (code * step for code in fmt.code_range())
    real = FUNCTIONS[function](domain.real, ATTRS.get(function, {})).clamp(low, high)
    code = op.unit.out.apply(op.unit.polynomials.integers(domain.codes))
    error = float((fmt.decode(code, node.params()) - real).abs().max()) / step
    assert error <= 0.5 + 0.125 * 1.05 + 2.0**-6


def test_polynomials_into_blocks_keep_their_stated_error() -> None:
    """Half a step of the block, and a fifth of a unit that is 2**-7 steps of the block of the greatest value."""
    op, domain, node = wide("silu", "fixed12.8", "mxint6b4e4")
    fmt, out = node.record.output.format, op.unit.out
    assert isinstance(fmt, MXInt)
    code = out.apply(op.unit.polynomials.integers(domain.codes.reshape(-1, 4)))
    assert code.exponent is not None
    real = torch.nn.functional.silu(domain.real).reshape(-1, 4)
    error = (fmt.decode(code, node.params()) - real).abs()
    inside = code.mantissa.abs() < 31
    assert out.unit + 8 == max(int(real.abs().max().log2().floor()) - 10, out.grid.base - 8)
    assert bool((error <= 2.0 ** (code.exponent - 5) + 0.2 * 2.0 ** (out.unit + 8))[inside].all())


def test_polynomials_by_hand() -> None:  # 4 segments of 4 codes: z is -2..1; h and t floor
    op = Polynomials(4, True, 2, torch.tensor([[0, 10, 20, 30], [3, 3, 3, -3], [1, 1, 1, 1]]), 1, 2)
    # code -8: segment 0, z -2: h = 3 + (-2 >> 2) = 2, t = 0 + (-4 >> 1) = -2
    # code 7: segment 3, z 1: h = -3 + (1 >> 2) = -3, t = 30 + (-3 >> 1) = 28
    assert op.integers(torch.tensor([-8, -6, 7])).tolist() == [-2, 0, 28]
    assert [op.scalar(code) for code in (-8, -6, 7)] == [-2, 0, 28]


def test_what_is_never_negative_stays_so_by_polynomials() -> None:
    """A segment near 0 may dip below it: the rounding does not."""
    op, domain, _ = wide("sigmoid", "fixed16.11", "fixed12.11")
    assert op.unit.out.relu
    assert int(op.unit.out.apply(op.unit.polynomials.integers(domain.codes)).mantissa.min()) >= 0


def test_the_fewest_segments_that_are_near_enough_are_taken() -> None:
    narrow, _, _ = wide("gelu", "fixed12.8", "fixed6.3")
    fine, _, _ = wide("gelu", "fixed12.8", "fixed12.9")
    line, _, _ = wide("neg", "fixed12.8", "fixed12.8")
    assert narrow.unit.polynomials.bits < fine.unit.polynomials.bits
    assert (line.unit.polynomials.bits, line.unit.polynomials.degree) == (4, 1)


REFUSED = [
    ("log", "fixed8.4", r"log of code -128 \(value -8\) of fixed8.4 is not a number: .* clamp to 0.0625 or more"),
    ("log", "ufixed8.4", r"log of code 0 \(value 0\) of ufixed8.4 is infinite: a table of an infinite range"),
    ("reciprocal", "fixed6.2", r"reciprocal of code 0 \(value 0\) .* clamp to 0.25 or more"),
    ("sqrt", "int4", r"sqrt of code -7 "),
    ("gelu", "fixed17.4", r"an index of 17 bits; allowed are 16 in all: give the producer an output format of at most"),
    ("reciprocal", "ufixed12.8", r"reciprocal of code 0 \(value 0\) .* infinite"),
    ("sin", "fixed16.4", r"sin of fixed16.4 is not within 0.125 steps of fixed8.4 by polynomials"),
    ("gelu", "mxint8b4e5", r"an index of 8 bits and 5 of the exponent; allowed are 12 in all"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "source", "text"), REFUSED)
def test_tables_that_cannot_be_are_refused_by_name(function: str, source: str, text: str) -> None:
    node = formatted(function, source, "fixed8.4")
    assert not is_exact(node)
    for call in (Activation.check_formats, Activation.from_node):
        with pytest.raises(UnsupportedOp, match=rf"^node 'node' \(activation, model.py:7\): .*{text}"):
            call(node)


def test_a_slope_for_each_channel_is_exact_where_slopes_are_short() -> None:
    """Slopes of a few bits and formats without a scale: the one rounding is that of the real product."""
    case = mapped("fixed8.4", "fixed7.2", (3, 2, 3), 2, slopes(3))
    node = case.graph.operators()[0]
    fmt, source = parse("fixed7.2"), parse("fixed8.4").decode(case.code)
    real = torch.nn.functional.prelu(source, torch.linspace(-0.5, 1.75, 3).double())
    found = build(case.graph).codes(case.code)[node.name]
    assert torch.equal(found.mantissa, fmt.encode(real).mantissa)
    assert int((found.mantissa < 0).sum()) > 5


def test_slopes_that_are_not_numbers_are_refused() -> None:
    node = formatted("prelu", "fixed6.3", "fixed6.3")
    slopes = {"node.weight": torch.tensor([0.1, math.inf, 0.3, 0.4])}
    with pytest.raises(UnsupportedOp, match="a slope of a channel is infinite or NaN; allowed are finite numbers"):
        Activation.check_formats(node.graph.replace(tensors=slopes).node("node"))


class Bounded(nn.Module):
    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.low).log()


@pytest.mark.parametrize(("low", "exact"), [(0.25, True), (0.05, True), (0.03, False), (-1.0, False)])
def test_a_clamp_before_it_makes_a_table_finite(low: float, exact: bool) -> None:  # 0.05 rounds to 1/16, 0.03 to 0
    x = draw(8, 4)
    graph = trace_module(Bounded(low).eval(), (x,))[0]
    done = quantize.run(graph, QuantizeConfig(NodeFormats(activation="fixed8.4")), [x])[0]
    assert is_exact(done.node("log")) is exact


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_never_negative_is_said_to_be(function: str) -> None:
    attrs = {"function": function, **ATTRS.get(function, {})}
    node = single("activation", (SINGLE,), attrs).node("node")
    x = draw(4000) * 4
    x = x.abs() if function in ("log", "sqrt", "rsqrt") else x
    y = FUNCTIONS[function](x, {**attrs, "weight": torch.tensor([0.25])})
    assert not_negative(node) == bool((y >= 0).all()), function


@pytest.mark.parametrize(("low", "high", "sure"), [(0.0, 6.0, True), (-1.0, 6.0, False), (1.0, None, True),
                                                   (None, 1.0, False), (2.0, -1.0, False)])  # fmt: skip
def test_a_clamp_above_zero_is_never_negative(low: float | None, high: float | None, sure: bool) -> None:
    node = single("activation", (SINGLE,), {"function": "clamp", "low": low, "high": high}).node("node")
    assert not_negative(node) is sure


def test_only_relu_merges_into_the_layer_before_it() -> None:
    for layer, kinds in ((nn.ReLU(), 1), (nn.ReLU6(), 2), (nn.Hardtanh(0.0, 6.0), 2), (nn.Sigmoid(), 2)):
        assert len(fuse(chain(nn.Linear(3, 3), layer))[0].operators()) == kinds


def test_parameters_that_a_function_needs_are_named() -> None:
    refused("has no operand 'weight'", "activation", (SINGLE,), {"function": "prelu"})
    refused("power has no exponent", "activation", (SINGLE,), {"function": "power"})


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


@pytest.mark.parametrize("source", ["fixed10.4", "fixed12.5"])  # a table, and polynomials: codes reach exp(31)
@pytest.mark.parametrize("target", ["nvfp4b4", "nvfp4l1b4"])
def test_codes_that_reach_far_take_no_bits_from_scales_of_blocks(source: str, target: str) -> None:
    """Words end 2**-18, and polynomials 2**-11, below the greatest number of the format: so near are most elements."""
    x = draw(64, 16) * 1.5 - 2 + 6 * (target == "nvfp4l1b4")  # one level: its greatest number is 2688
    config = QuantizeConfig(inputs=source, default=NodeFormats(output=target))
    graph, _ = quantize.run(trace_module(Exponential().eval(), (x,))[0], config, [x])
    node = graph.operators()[-1]
    fmt, given = parse(target), parse(source)
    expected = fmt.quantize(given.quantize(x.double(), given.calibrate(x)).exp(), replace(node.params(), axis=-1))
    found = emulate(graph, x).double()
    assert float((found - expected).norm() / expected.norm()) < 0.01
    assert float((found != expected).double().mean()) < 0.1  # elements beside a tie
