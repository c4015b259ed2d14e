"""Pooling over windows, to a size, over axes: in float, in integers, in RTL."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mase.errors import UnsupportedOp
from mase.graph import Graph
from mase.interpreter import run
from mase.netlist import build
from mase.ops.pool import Pool
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused

X = draw(2, 3, 7, 6)


def test_windows() -> None:
    attrs = {"function": "max", "size": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "ceil": True}
    expected = F.max_pool2d(X, (3, 2), (2, 1), (1, 0), (1, 2), True)
    assert torch.equal(compute("pool", (X,), attrs), expected)
    attrs = {"function": "average", "size": [3, 3], "stride": [2, 2], "padding": [1, 1], "count_padding": False}
    assert torch.equal(compute("pool", (X,), attrs), nn.AvgPool2d(3, 2, 1, count_include_pad=False)(X))
    line = draw(2, 3, 9)
    assert torch.equal(compute("pool", (line,), {"function": "max", "size": [2]}), F.max_pool1d(line, 2))


@pytest.mark.parametrize("size", [[2, 3], [None, 2], [1, 1]])
def test_to_a_size(size: list[int | None]) -> None:
    for function, pool in (("adaptive_average", F.adaptive_avg_pool2d), ("adaptive_max", F.adaptive_max_pool2d)):
        assert torch.equal(compute("pool", (X,), {"function": function, "size": size}), pool(X, size))


@pytest.mark.parametrize("function", ["mean", "sum", "amax", "amin"])
def test_over_axes(function: str) -> None:
    expected = getattr(X, function)((2, 3), keepdim=True)
    assert torch.equal(compute("pool", (X,), {"function": function, "axes": [2, 3], "keepdim": True}), expected)
    assert torch.equal(compute("pool", (X,), {"function": function, "axes": [-1]}), getattr(X, function)(-1))


def test_wrong_records_are_refused() -> None:
    refused("function 'median'; allowed: ", "pool", (X,), {"function": "median"})
    refused("size None; allowed is a list", "pool", (X,), {"function": "max"})
    refused("axes \\[4\\]; allowed are axes of 4", "pool", (X,), {"function": "mean", "axes": [4]})


# -- hardware ---------------------------------------------------------------------------------------------------------


class Over(nn.Module):
    """A function over whole axes."""

    def __init__(self, function: str, axes: tuple[int, ...], keepdim: bool = False) -> None:
        super().__init__()
        self.function, self.axes, self.keepdim = function, axes, keepdim

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(x, self.function)(self.axes, keepdim=self.keepdim)
        return found


def network(
    layer: nn.Module, shape: tuple[int, ...], source: str, target: str | None, lanes: int = 1, rounding: str = "even"
) -> Network:
    """Return a pool alone; ``target`` is None where it keeps the format of its input."""
    x = draw(6, *shape, seed=len(shape) + lanes)
    formats = {"0*": NodeFormats(output=target, rounding=rounding)}
    return Network("pool", [layer], x, source, formats, {"0*": Folding(lanes, lanes)})


def mapped(layer: nn.Module, shape: tuple[int, ...], source: str, target: str | None = None, lanes: int = 1) -> Mapped:
    case = network(layer, shape, source, target, lanes).case()
    return Mapped(case.graph, case.code)


@cache
def every_shape() -> Mapping[str, Mapped]:
    """Return windows that overlap, that leave gaps, with borders; whole images; lines; formats of every class."""
    return {
        "max": mapped(nn.MaxPool2d(2), (3, 4, 6), "fixed5.3", lanes=2),
        "max_border": mapped(nn.MaxPool2d(3, 2, 1), (5, 7, 6), "int5", lanes=3),
        "max_ceil": mapped(nn.MaxPool2d(2, 2, ceil_mode=True), (2, 3, 5), "ufixed5.3", lanes=2),
        "max_blocks": mapped(nn.MaxPool2d((2, 3), 1, (1, 0)), (6, 2, 4), "mxint5b4e3", lanes=2),
        "max_line": mapped(nn.MaxPool1d(3, 2, 1, 2), (7, 9), "int4p", lanes=4),
        "max_all": mapped(nn.AdaptiveMaxPool2d(1), (4, 3, 2), "fixed6.4", lanes=1),
        "mean": mapped(nn.AvgPool2d(2), (3, 4, 4), "fixed5.3", "fixed6.4", lanes=2),
        "mean_border": mapped(nn.AvgPool2d(3, 2, 1), (5, 7, 6), "int6", "int5", lanes=2),
        "mean_blocks": mapped(nn.AvgPool2d(2, 1), (6, 3, 3), "mxint5b2e3", "mxint4b4e4", lanes=4),
        "mean_parts": mapped(nn.AdaptiveAvgPool2d((2, 1)), (3, 4, 3), "fixed6.4", "fixed6.4", lanes=3),
        "mean_all": mapped(nn.AdaptiveAvgPool2d(1), (7, 3, 5), "int8", "mxint5b2e4", lanes=2),
        "mean_axes": mapped(Over("mean", (2, 3)), (5, 2, 3), "fixed7.5", "int6", lanes=2),
        "mean_tokens": mapped(Over("mean", (1,), True), (5, 6), "mxint5b4e3", "fixed6.4", lanes=4),
        "mean_rows": mapped(Over("mean", (2,)), (2, 3, 4), "fixed7.5", "fixed7.5", lanes=2),
        "sum": mapped(Over("sum", (2, 3), True), (3, 2, 2), "int5", "int6", lanes=2),
        "amin": mapped(Over("amin", (2, 3)), (3, 2, 3), "fixed6.3", "fixed5.2", lanes=2),
        "amin_blocks": mapped(Over("amin", (1,)), (4, 6), "mxint5b2e3", "mxint5b2e3", lanes=2),
        "amax": mapped(Over("amax", (2, 3)), (3, 2, 2), "int5", "fixed6.3", lanes=2),
        "max_wide": mapped(nn.MaxPool2d(2, 1, 1), (5, 2, 3), "mxint8b4", lanes=2),
        "max_floats": mapped(nn.MaxPool1d(2), (3, 4), "mxfp8e4m3b2", lanes=2),
        "mean_wide": mapped(nn.AvgPool2d(3, 1, 1), (6, 3, 3), "mxint8b4", "mxint8b4", lanes=2),
        "mean_floats": mapped(nn.AdaptiveAvgPool2d(1), (5, 2, 3), "mxfp8e4m3b2", "fixed6.4", lanes=4),
        "sum_wide": mapped(Over("sum", (2, 3)), (3, 2, 2), "mxfp4b2", "mxfp4b2", lanes=2),
        "one": mapped(nn.MaxPool2d(1), (1, 1, 1), "fixed4.2"),
    }


class TestLaws(OpLaws):
    kind = "pool"

    def graphs(self) -> Mapping[str, Mapped]:
        return every_shape()


def pool_of(graph: Graph) -> Pool:
    (op,) = build(graph).ops.values()
    assert isinstance(op, Pool)
    return op


def values(net: Network) -> tuple[Tensor, Tensor]:
    """Return the real values that go into a pool, and those that come out."""
    graph = net.quantized()
    found = run(graph, (net.x,), keep=True)
    (node,) = graph.operators()
    return found.real(node.inputs[0].name), found.real(node.name)


@pytest.mark.parametrize("source", ["fixed6.4", "int5", "mxint6b2e4"])
def test_the_greatest_is_that_of_the_real_values(source: str) -> None:
    pool = nn.MaxPool2d(3, 2, 1, 2)
    x, y = values(network(pool, (4, 9, 8), source, None))
    if not source.startswith("mxint"):
        assert torch.equal(y, pool(x))
        return
    net = network(pool, (4, 9, 8), source, None).quantized()  # pixels with other exponents: one rounding
    record = net.node("_0").record.output
    assert record.format is not None
    assert torch.equal(y, record.format.quantize(pool(x), net.node("_0").params()))


@pytest.mark.parametrize("target", ["fixed6.4", "mxint5b2e4"])
@pytest.mark.parametrize("layer", [nn.AvgPool2d(2), nn.AvgPool2d((4, 2), 1, (2, 1)), nn.AdaptiveAvgPool2d((4, 1))])
def test_a_mean_of_so_many_that_halve_is_rounded_once(layer: nn.Module, target: str) -> None:
    net = network(layer, (4, 8, 4), "fixed7.5", target)
    x, y = values(net)
    node = net.quantized().node("_0")
    assert node.record.output.format is not None
    assert torch.equal(y, node.record.output.format.quantize(layer(x.double()).float(), node.params()))


def test_a_mean_of_nine_is_a_dyadic_of_16_bits_by_hand() -> None:
    op = pool_of(network(nn.AvgPool2d(3), (1, 3, 3), "fixed6.0", "fixed6.0").case().graph)
    assert op.out.multiplier is not None
    assert (op.out.multiplier.tolist(), op.out.shift) == ([round(2**19 / 9)], 19)
    m = Fraction(round(2**19 / 9), 2**19)
    for total in (-9 * 32, -14, -13, 4, 5, 13, 14, 9 * 31):
        scalar, _ = op.out.scalar([total])
        assert scalar == [min(max(round(total * m), -32), 31)]


def test_a_mean_of_twelve_shifts_by_two_and_multiplies_by_a_third() -> None:
    op = pool_of(network(nn.AvgPool2d((3, 4)), (1, 3, 4), "fixed6.0", "fixed6.0").case().graph)
    third = pool_of(network(nn.AvgPool2d((3, 1)), (1, 3, 4), "fixed6.0", "fixed6.0").case().graph)
    assert op.out.multiplier is not None
    assert third.out.multiplier is not None
    assert torch.equal(op.out.multiplier, third.out.multiplier)
    assert op.out.shift == third.out.shift + 2


def test_the_greatest_keeps_the_format_of_its_input() -> None:
    net = network(nn.MaxPool2d(2), (3, 4, 4), "int5", "fixed9.2")
    graph = net.quantized()
    assert graph.node("_0").record.output.format == graph.inputs[0].record.output.format
    assert pool_of(net.case().graph).out.multiplier is None


def test_a_border_never_wins() -> None:
    x = -1 - draw(2, 3, 5, 5).abs()
    net = Network("pool", [nn.MaxPool2d(3, 2, 1)], x, "fixed8.4", {})
    given, found = values(net)
    assert torch.equal(found, F.max_pool2d(given, 3, 2, 1))


def test_sums_of_what_is_never_negative_take_a_bit_less() -> None:
    pool, formats = nn.AvgPool2d(3), {"1": NodeFormats(output="fixed6.4"), "0": NodeFormats(output="fixed6.4")}
    x = draw(4, 2, 6, 6)
    behind = Network("relu", [nn.ReLU(), pool], x, "fixed6.4", formats).case()
    (op,) = (op for op in build(behind.graph).ops.values() if isinstance(op, Pool))
    assert op.reduction.low == 0
    assert op.reduction.range == (0, 9 * 31)


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (nn.AdaptiveAvgPool2d(2), (3, 5, 4), r"\(2, 2\) windows of \(5, 4\) elements differ in size"),
        (nn.AvgPool2d(2, ceil_mode=True), (3, 5, 4), "the last window holds fewer elements"),
        (nn.MaxPool3d(2), (3, 4, 4, 4), "windows over 3 axes have no hardware"),
        (Over("mean", (1, 3)), (3, 2, 2, 2), "reduces axes that do not travel just before the last one"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (3, 5, 5), "has no hardware"),
    ],
    ids=["uneven", "ceil", "volume", "apart", "part"],
)
def test_what_has_no_hardware_runs_in_float_and_is_refused_by_name(
    layer: nn.Module, shape: tuple[int, ...], text: str
) -> None:
    net = network(layer, shape, "fixed6.4", "fixed6.4")
    x, y = values(net)
    (node,) = net.quantized().operators()
    assert node.record.output.format is not None
    assert torch.equal(y.float(), node.record.output.format.quantize(layer(x.float()), node.params()))
    with pytest.raises(UnsupportedOp, match=rf"node '0[.a-z]*' \(pool.*: {text}"):
        build(net.quantized())


def test_exponents_that_reach_far_are_aligned() -> None:
    """Beside 64 the sum keeps steps of 2**-8, and a term that is less than one below 0 counts as one."""
    net = network(nn.AvgPool2d(2), (1, 2, 2), "mxint8b1", "fixed16.10")
    graph = net.quantized()
    x = torch.tensor([64.0, 1.0, -(2.0**-20), -(2.0**-20)]).reshape(1, 1, 2, 2)
    codes = run(graph, (x,), keep=True).codes["_0"].mantissa
    assert codes.item() * 2.0**-10 == (64 + 1 - 2 * 2.0**-8) / 4
    (op,) = (op for op in build(graph).ops.values() if isinstance(op, Pool))
    assert op.reduction.alignment is not None
    assert op.reduction.acc_width == 8 + 8 + 2
