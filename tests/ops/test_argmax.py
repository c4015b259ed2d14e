"""Argmax: the lowest index among equal elements, exponents count, tails lose; indices have a format of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.blocks.argmax import Argmax, first_greatest, index_bits
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.interpreter import is_exact, run, train
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import Network
from tests.ops.single import draw, refused


class Greatest(nn.Module):
    def __init__(self, dim: int, keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(self.dim, self.keepdim)


def mapped(source: str, shape: tuple[int, ...], lanes: int, keepdim: bool = False) -> Mapped:
    case = Network(
        "argmax", [Greatest(-1, keepdim)], draw(6, *shape), source, {}, {"*argmax": Folding(lanes, 1)}
    ).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "argmax_prime": mapped("fixed4.2", (7,), 3, keepdim=True),
        "argmax_one_beat": mapped("ufixed3.1", (2, 5), 8),
        "argmax_one": mapped("int4", (3, 1), 1),
        "argmax_number": mapped("fixed5.2", (4,), 2),
        "argmax_blocks": mapped("mxint4b4e3", (3, 9), 2, keepdim=True),
        "argmax_ocp": mapped("mxint5b2e8", (2, 5), 2, keepdim=True),  # integers of 260 bits
        "argmax_wide_blocks": mapped("mxint5b2e3", (6,), 4, keepdim=True),
    }


class TestLaws(OpLaws):
    kind = "argmax"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_the_lowest_of_equal_ones_wins() -> None:
    assert first_greatest(torch.tensor([[1, 3, 3], [-2, -2, -2], [0, 1, 2]])).tolist() == [1, 0, 2]
    for mapped_case in cases().values():
        op = next(iter(build(mapped_case.graph).ops.values()))
        zeros = Code(torch.zeros_like(mapped_case.code.mantissa), mapped_case.code.exponent)
        assert not op.reference(zeros).mantissa.any()


def test_indices_are_pytorchs() -> None:
    graph = cases()["argmax_prime"].graph
    x = draw(50, 7, seed=3)
    fmt = graph.inputs[0].record.output.format
    assert fmt is not None
    assert torch.equal(graph(x), fmt.quantize(x).argmax(-1, keepdim=True))
    assert graph(x).dtype == torch.int64


@pytest.mark.parametrize(("cols", "bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9)])
def test_an_index_has_the_bits_that_it_needs(cols: int, bits: int) -> None:
    assert index_bits(cols) == bits


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.argmax(self.layer(x), dim=1)


def classifier(activation: str | None = "fixed8.4") -> Graph:
    graph = trace_module(Classifier().eval(), (draw(8, 4),))[0]
    return quantize.run(graph, QuantizeConfig(NodeFormats("fixed6.4", activation)), [draw(8, 4)])[0]


def test_a_classifier_ends_in_an_index() -> None:
    graph = classifier()
    node = graph.node("argmax")
    assert (str(node.record.output.format), is_exact(node)) == ("ufixed3.0", True)
    values = run(graph, (draw(8, 4),), keep=True)
    assert torch.equal(values.codes[node.name].mantissa, values.real("layer").argmax(1))
    assert torch.equal(train(graph, (draw(8, 4),)), graph(draw(8, 4)))


def test_without_formats_it_is_pytorchs() -> None:
    graph = classifier(None)
    assert graph.node("argmax").record.output.format is None
    assert graph(draw(8, 4)).dtype == torch.int64


def test_a_format_without_hardware_still_gives_indices() -> None:
    graph = classifier("nf4")
    assert not is_exact(graph.node("argmax"))
    assert torch.equal(graph(draw(8, 4)), run(graph, (draw(8, 4),), keep=True).real("layer").argmax(1))


def test_both_doors_find_it() -> None:
    found = [mase.trace(Classifier().eval(), draw(8, 4), front=front) for front in ("module", "export")]
    assert [graph.operators()[-1].record.attrs for graph in found] == [{"axis": 1, "keepdim": False}] * 2


def test_what_looks_at_the_batch_stays_opaque() -> None:
    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argmax()

    for model in (Whole(), Greatest(0)):
        assert trace_module(model.eval(), (draw(4, 4),))[0].operators()[0].kind == "opaque"
    refused("axis 0 is the batch", "argmax", (draw(4, 4),), {"axis": 0})
    refused("axis 3; allowed is an axis of 2", "argmax", (draw(4, 4),), {"axis": 3})


def test_results_are_sent_as_the_rows_of_the_result() -> None:
    (instance,) = build(cases()["argmax_one_beat"].graph).instances
    assert isinstance(instance.block, Argmax)
    assert (instance.block.stream_out.rows, instance.block.stream_out.cols) == (1, 2)
