"""Depthwise convolution: each channel on a lane of its own, in integers and in RTL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mase.errors import UnsupportedOp
from mase.formats import parse
from mase.interpreter import is_exact, run
from mase.netlist import build
from mase.ops.decoded import Decoded
from mase.ops.depthwise import Depthwise, weight_integers
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network

Formats = tuple[str, str, str]  # of input, weight and result
FIXED, CHANNELS = ("fixed6.4", "fixed5.3", "fixed6.2"), ("int5", "int5c", "int6")


def network(layer: nn.Module, size: Sequence[int], formats: Formats, lanes: int, relu: bool = False) -> Network:
    """Return one convolution on images ``[channels, ...]``."""
    torch.manual_seed(sum(size))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    node = {"0": NodeFormats(formats[1], output=formats[2])}
    layers = [layer, nn.ReLU()] if relu else [layer]
    return Network("depthwise", layers, torch.randn(6, *size), formats[0], node, {"0": Folding(lanes, lanes)})


def mapped(
    layer: nn.Module, size: Sequence[int], formats: Formats = FIXED, lanes: int = 1, relu: bool = False
) -> Mapped:
    case = network(layer, size, formats, lanes, relu).case()
    return Mapped(case.graph, case.code)


@cache
def every_shape() -> Mapping[str, Mapped]:
    """Return windows with borders, gaps and tails, one window, a line; formats of every class."""
    mx, octal = ("mxint5b4e3", "mxint4b4e3", "mxint5b2e3"), ("mxint8b4",) * 3
    wide = "ufixed5.4", "e2m1", "fixed6.2"
    return {
        "same": mapped(nn.Conv2d(5, 5, 3, padding="same", groups=5), (5, 3, 4), lanes=2, relu=True),
        "strided": mapped(nn.Conv2d(4, 4, (2, 3), 2, groups=4, bias=False), (4, 5, 7), CHANNELS, 4),
        "dilated": mapped(nn.Conv2d(3, 3, (3, 2), padding=(2, 1), dilation=(1, 3), groups=3), (3, 2, 5), CHANNELS, 2),
        "blocks": mapped(nn.Conv1d(6, 6, 3, padding=1, groups=6), (6, 5), mx, 4, relu=True),
        "pixels": mapped(nn.Conv2d(3, 3, 1, groups=3), (3, 2, 2), ("mxint4b2e3", "int4g1", "int5"), 2),
        "whole": mapped(nn.Conv2d(2, 2, (3, 2), groups=2), (2, 3, 2), wide),
        "signs": mapped(nn.Conv2d(4, 4, 2, groups=4), (4, 3, 3), ("int5", "binaryc", "int6"), 2),
        "powers": mapped(nn.Conv2d(3, 3, 2, groups=3), (3, 3, 3), ("fixed6.4", "log3", "fixed6.2"), 2),
        "wide": mapped(nn.Conv2d(6, 6, 3, 2, 1, groups=6), (6, 5, 4), octal, 2, relu=True),
        "wide_floats": mapped(nn.Conv1d(4, 4, 2, groups=4), (4, 4), ("mxfp8e4m3b2", "mxfp4b2", "mxfp4b2"), 4),
        "wide_signs": mapped(
            nn.Conv2d(3, 3, 2, groups=3, bias=False), (3, 3, 3), ("mxint8b2", "binary", "fixed6.2"), 2
        ),
        "stage": stage(),
    }


def stage() -> Mapped:
    """Return a stage of a small network: widened, filtered, pooled twice, at lanes that differ from one to the next."""
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.MaxPool2d(2, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)]
    formats = {"*": NodeFormats("fixed5.3", output="fixed6.2")}
    folding = {"0": Folding(3, 2), "2": Folding(3, 3), "3": Folding(2, 2), "4": Folding(6, 6), "6": Folding(4, 1)}
    case = Network("stage", layers, torch.randn(6, 3, 4, 5), "fixed6.4", formats, folding).case()
    return Mapped(case.graph, case.code)


class TestLaws(OpLaws):
    kind = "conv"

    def graphs(self) -> Mapping[str, Mapped]:
        return every_shape()


def test_the_unit_is_that_of_so_many_lanes() -> None:
    for name, case in every_shape().items():
        netlist = build(case.graph)
        cores = [op.core if isinstance(op, Decoded) else op for op in netlist.ops.values()]
        assert any(isinstance(op, Depthwise) for op in cores), name
        assert name == "stage" or "mase_linear" not in {i.block.sv_module for i in netlist.instances}


@pytest.mark.parametrize("weight", ["fixed5.3", "int6p", "mxint4b8e3", "e3m2", "int4g1p"])
def test_a_sum_without_bias_is_rounded_once(weight: str) -> None:
    layer = nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False)
    net = network(layer, (4, 6, 5), ("fixed6.4", weight, "fixed7.3"), 2)
    graph = net.quantized()
    found, node = run(graph, (net.x,), keep=True), graph.node("_0")
    fmt, out = node.record.operands["weight"].format, node.record.output.format
    assert fmt is not None
    assert out is not None
    real = fmt.quantize(node.tensor("weight").double(), node.params("weight"))
    exact = F.conv2d(found.real(graph.inputs[0].name), real, None, 2, 1, groups=4)
    assert torch.equal(found.real("_0"), out.quantize(exact, node.params()))


def test_exponents_of_weights_become_part_of_them() -> None:
    fmt, weight = parse("mxint4b8e4"), torch.tensor([[[[1.0, 0.25], [0.0, -6.0]]]])
    integers, unit, scale, _ = weight_integers(fmt, fmt.calibrate(weight, 1), weight, "here")
    assert scale is None
    assert torch.equal(integers.flatten().double() * 2.0**unit, weight.flatten().double())


def test_exponents_that_reach_far_are_aligned() -> None:
    net = network(nn.Conv2d(2, 2, 2, groups=2), (2, 3, 3), ("mxint8", "fixed5.3", "fixed6.2"), 1)
    graph = net.quantized()
    assert is_exact(graph.node("_0"))
    assert build(graph).ops["_0"].settled() == {"accumulation": "aligned(8)"}


def test_a_sum_without_exponents_is_not_aligned() -> None:
    layer = nn.Conv2d(2, 2, 2, groups=2)
    formats = {"0": NodeFormats("fixed5.3", output="fixed6.2", accumulation="aligned(2)")}
    with pytest.raises(UnsupportedOp, match=r"aligned\(G\) is for block formats; allowed here: exact"):
        build(Network("depthwise", [layer], torch.randn(6, 2, 3, 3), "fixed5.2", formats).quantized())


def test_a_bias_beyond_all_products_counts() -> None:
    """Inputs of 2**-20 and a bias of 3: the bias has the greater exponent."""
    layer = nn.Conv2d(2, 2, 1, groups=2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(3.0)  # type: ignore[union-attr]
    x = torch.full((6, 2, 1, 1), 2.0**-20)
    formats = {"0": NodeFormats("fixed4.1", output="fixed8.4")}
    graph = Network("depthwise", [layer], x, "mxint8b2", formats).quantized()
    found = run(graph, (x,), keep=True).codes["_0"].mantissa
    assert torch.equal(found, torch.full_like(found, 48))
