"""Convolutions equal the modules that hold them, and their RTL; impossible records are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
import torch
from torch import nn

from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import Graph
from mase.interpreter import is_exact
from mase.netlist import build
from mase.ops import conv
from mase.testing import Mapped, OpLaws, same_codes
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused

CASES = [
    (nn.Conv1d(4, 6, 3, padding=1, bias=False), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 4, 9, 5)),
    (nn.Conv2d(4, 4, 3, padding="same", groups=4), (2, 4, 7, 7)),
    (nn.Conv2d(3, 2, 3, padding=2, padding_mode="circular"), (2, 3, 6, 5)),
    (nn.Conv2d(3, 2, (3, 2), padding="same", padding_mode="reflect", dilation=(1, 2)), (2, 3, 6, 5)),
    (nn.Conv3d(2, 3, 2), (1, 2, 3, 4, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), (2, 4, 5, 5)),
]


@pytest.mark.parametrize(("m", "shape"), CASES, ids=[str(m) for m, _ in CASES])
def test_it_computes_what_the_module_computes(m: nn.Conv2d, shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    padding = m.padding if isinstance(m.padding, str) else list(m.padding)
    attrs = {"stride": list(m.stride), "padding": padding, "dilation": list(m.dilation), "groups": m.groups}
    attrs |= {"padding_mode": m.padding_mode} if m.padding_mode != "zeros" else {}
    attrs |= {"transposed": True, "output_padding": list(m.output_padding)} if m.transposed else {}
    operands = {name: p.detach() for name, p in m.named_parameters()}
    with torch.no_grad():
        assert torch.equal(compute("conv", (x,), attrs, **operands), m(x))


def test_stride_padding_and_dilation_have_usual_values() -> None:
    x, weight = draw(1, 3, 5), draw(2, 3, 3, seed=1)
    assert torch.equal(compute("conv", (x,), weight=weight), torch.conv1d(x, weight))


def test_wrong_records_are_refused() -> None:
    x, weight = draw(1, 3, 5), draw(2, 3, 3)
    refused("has no operand 'weight'", "conv", (x,))
    refused(r"weight has shape \(2, 3\); allowed are 3 to 5 axes", "conv", (x,), weight=draw(2, 3))
    refused(r"input is \(1, 3, 5\); the weight takes 6 channels", "conv", (x,), {"groups": 2}, weight=weight)
    refused("padding_mode 'mirror'; allowed: zeros, ", "conv", (x,), {"padding_mode": "mirror"}, weight=weight)


# -- hardware ---------------------------------------------------------------------------------------------------------

Formats = tuple[str, str, str]  # of input, weight and result
FIXED, CHANNELS, BLOCKS = ("fixed6.4", "fixed5.3", "fixed6.2"), ("int5", "int5c", "int6"), ("mxint5b4e3",) * 3


def network(
    layer: nn.Module, size: Sequence[int], formats: Formats = FIXED, lanes: tuple[int, int] = (1, 1), **options: str
) -> Network:
    """Return one convolution on images ``[channels, ...]``, with the ReLU or the batch norm that the options name."""
    torch.manual_seed(sum(size))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    layers = [layer, *([nn.ReLU()] * ("relu" in options))]
    node = NodeFormats(formats[1], output=formats[2], **{k: v for k, v in options.items() if k != "relu"})
    return Network("conv", layers, torch.randn(6, *size), formats[0], {"0": node}, {"0": Folding(*lanes)})


def mapped(
    layer: nn.Module, size: Sequence[int], formats: Formats = FIXED, lanes: tuple[int, int] = (1, 1), **options: str
) -> Mapped:
    case = network(layer, size, formats, lanes, **options).case()
    return Mapped(case.graph, case.code)


def flat(weight: str, fused: bool) -> Network:
    """Return a linear layer behind a flattened image."""
    torch.manual_seed(4)
    layers = [nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(18, 5)]
    formats = {"*": NodeFormats("int5c", output="int6"), "2*": NodeFormats(weight, output="fixed6.2")}
    return Network("flat", layers, torch.randn(4, 2, 3, 4), "fixed6.4", formats, fused=fused)


def flat_mapped() -> Mapped:
    """Return weights in blocks that the order of the image tears apart."""
    case = flat("mxint4b4e4", fused=False).case({"0": Folding(2, 3), "2": Folding(3, 2)})
    return Mapped(case.graph, case.code)


@cache
def every_shape() -> Mapping[str, Mapped]:
    """Return sizes 1 and primes, gaps and tails, lanes that do not divide, groups, formats of each class."""
    return {
        "one": mapped(nn.Conv2d(1, 1, 1), (1, 1, 1)),
        "flat": flat_mapped(),
        "pointwise": mapped(nn.Conv2d(5, 7, 1), (5, 2, 3), CHANNELS, (2, 3), relu=""),
        "padded": mapped(nn.Conv2d(3, 5, 3, padding=1), (3, 4, 3), lanes=(2, 5), relu=""),
        "strided": mapped(nn.Conv2d(2, 3, 2, stride=3, bias=False), (2, 5, 7), CHANNELS, (1, 2)),
        "same": mapped(nn.Conv2d(3, 2, (1, 5), padding="same"), (3, 3, 5), ("ufixed4.4", "int4p", "ufixed5.1"), (3, 1)),
        "dilated": mapped(nn.Conv2d(2, 3, (3, 2), dilation=(1, 3), padding=(2, 1)), (2, 3, 5), CHANNELS, (2, 1)),
        "line": mapped(nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 9), lanes=(3, 2)),
        "pixels": mapped(nn.Conv1d(2, 3, 1, stride=2), (2, 7), CHANNELS, (2, 3)),
        "blocks": mapped(nn.Conv2d(6, 5, 2, padding=1), (6, 3, 2), BLOCKS, (2, 4)),
        "wide": mapped(nn.Conv2d(6, 4, 2), (6, 3, 3), BLOCKS, (8, 2), accumulation="exact", relu=""),
        "cut": mapped(nn.Conv2d(5, 2, (1, 3)), (5, 2, 4), BLOCKS, (1, 1), accumulation="aligned(2)"),
        "mixed": mapped(
            nn.Conv2d(7, 3, 3), (7, 3, 4), ("mxint4b2e3", "mxint5b8e3", "fixed7.2"), (4, 2), accumulation="aligned(0)"
        ),
        "groups": mapped(nn.Conv2d(6, 9, 2, groups=3), (6, 3, 4), CHANNELS, (2, 3)),
        "group_blocks": mapped(nn.Conv2d(8, 4, 2, groups=2, padding=1), (8, 2, 3), BLOCKS, (2, 2), relu=""),
        "depthwise": mapped(nn.Conv2d(3, 6, 3, groups=3), (3, 3, 5), FIXED, (1, 2)),
    }


class TestLaws(OpLaws):
    kind = "conv"

    def graphs(self) -> Mapping[str, Mapped]:
        return every_shape()


# -- around a convolution ---------------------------------------------------------------------------------------------


def test_batch_norm_and_relu_join_the_convolution_before_them() -> None:
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    nn.init.uniform_(layers[1].running_mean)  # type: ignore[arg-type]  # a batch norm has one
    formats = {"0": NodeFormats("int8c", output="fixed8.4")}
    graph = Network("fused", layers, torch.randn(4, 2, 5, 4), "fixed8.4", formats).quantized()
    (node,) = graph.operators()
    assert (node.kind, node.record.attrs["activation"]) == ("conv", "relu")
    assert is_exact(node)
    assert int(build(graph).codes(graph_codes(graph))[node.name].mantissa.min()) >= 0


def graph_codes(graph: Graph) -> Code:
    """Return random codes of the input of a graph."""
    grid, shape = build(graph).stream_in.grid, graph.inputs[0].record.output.shape
    return Code(torch.randint(grid.low, grid.high + 1, shape, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("weight", ["fixed5.3", "mxint4b4e4", "mxfp4b4", "nvfp4b4", "int4g4", "log5"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_flattened_image_goes_on_as_it_came(weight: str, fused: bool) -> None:
    graph = flat(weight, fused).quantized()
    netlist = build(graph)
    assert [instance.block.sv_module for instance in netlist.instances] == ["mase_window", "mase_linear", "mase_linear"]
    code = graph_codes(graph)
    expected = netlist.codes(code, oracle=True)
    assert all(same_codes(found, expected[name]) for name, found in netlist.codes(code).items())


def test_many_samples_are_cut_into_windows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    source = mapped(nn.Conv2d(6, 5, 2, padding=1), (6, 3, 2), BLOCKS, (2, 4))
    op = build(source.graph).ops["_0"]
    whole = op.reference(source.code)
    monkeypatch.setattr(conv, "CHUNK", 1)
    assert same_codes(op.reference(source.code), whole)


def test_blocks_that_lie_over_two_groups_are_refused() -> None:
    graph = network(nn.Conv2d(6, 4, 1, groups=2), (6, 2, 2), BLOCKS).quantized()
    assert not is_exact(graph.node("0"))
    with pytest.raises(UnsupportedOp, match="blocks of 4 do not tile the 3 channels of a group"):
        build(graph)


@pytest.mark.parametrize("lanes", [(4, 1), (1, 2)])
def test_lanes_that_hold_two_groups_are_refused(lanes: tuple[int, int]) -> None:
    graph = network(nn.Conv2d(6, 9, 1, groups=3), (6, 2, 2), CHANNELS).quantized()
    with pytest.raises(UnsupportedOp, match="those of a group"):
        build(graph).ops["_0"].circuit(*lanes, {})
