"""Top-k: the greatest first, the lowest index among equals, values and indices, at an output."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.errors import UnsupportedOp
from mase.formats import Code, parse
from mase.frontend.module import trace_module
from mase.interpreter import is_exact, run
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.ops.branches import mapped, quantized
from tests.ops.single import compute, draw, refused


class Best(nn.Module):
    """The greatest values or their indices."""

    def __init__(self, k: int, part: int, dim: int = -1) -> None:
        super().__init__()
        self.k, self.part, self.dim = k, part, dim

    def forward(self, x: Tensor) -> Tensor:
        return x.topk(self.k, self.dim)[self.part]


class Both(nn.Module):
    """Values and indices, of the results of a layer."""

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        torch.manual_seed(k)
        self.layer, self.k = nn.Linear(inputs, outputs), k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        best = torch.topk(self.layer(x), self.k)
        return best.values, best.indices


def best(k: int, part: int, source: str, shape: tuple[int, ...], dim: int = -1) -> Mapped:
    x = draw(6, *shape)
    return mapped(quantized(Best(k, part, dim), x, source, {}), x)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "topk_indices": best(3, 1, "fixed4.2", (7,)),
        "topk_values": best(2, 0, "int4", (2, 5)),
        "topk_all": best(4, 1, "ufixed3.1", (2, 4)),
        "topk_one": best(1, 0, "int5a", (1,)),
        "topk_blocks": best(3, 1, "mxint4b4e3", (2, 9)),
        "topk_ocp": best(2, 1, "mxint4b2e8", (5,)),  # integers of some 260 bits
        "topk_channels": best(2, 0, "fixed5.2", (3, 1, 1), 1),
    }


class TestLaws(OpLaws):
    kind = "topk"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_ties_go_to_the_lowest_index() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0]])
    attrs = {"k": 3, "axis": 1}
    assert compute("topk", (x,), {**attrs, "result": "indices"}).tolist() == [[1, 2, 4], [0, 1, 2]]
    assert compute("topk", (x,), {**attrs, "result": "values"}).tolist() == [[3.0, 3.0, 3.0], [2.0, 2.0, 2.0]]
    op = build(cases()["topk_indices"].graph).ops["getitem"]
    assert op.reference(Code(torch.zeros(1, 7, dtype=torch.int64))).mantissa.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("part", [0, 1])
def test_results_are_pytorchs(part: int) -> None:
    x = draw(40, 9, seed=3)
    graph = quantized(Best(4, part), x, "fixed10.7", {})
    assert torch.equal(graph(x), parse("fixed10.7").quantize(x).topk(4)[part])
    assert graph(x).is_floating_point() == (part == 0)


def test_both_results_of_a_classifier_leave() -> None:
    x = draw(8, 4)
    graph = mase.trace(Both(4, 6, 2).eval(), x, output=(0, 1))
    graph = quantize.run(graph, QuantizeConfig(NodeFormats("int6", "fixed8.4")), [x])[0]
    kinds = [(node.kind, node.record.attrs.get("result")) for node in graph.operators()]
    assert kinds == [("linear", None), ("topk", "values"), ("topk", "indices")]
    assert all(map(is_exact, graph.operators()))
    assert len(build(graph).exits) == 2
    found = run(graph, (x,), keep=True)
    values, indices = (found.real(node.name) for node in graph.output.inputs)
    assert torch.equal(values, found.real("layer").gather(1, indices))
    assert torch.equal(values, found.real("layer").topk(2).values)
    formats = [str(node.record.output.format) for node in graph.operators()]
    assert formats == ["fixed8.4", "fixed8.4", "ufixed3.0"]


@pytest.mark.parametrize("front", ["module", "export"])
def test_both_doors_find_it(front: str) -> None:
    graph = mase.trace(Best(2, 1, 1).eval(), draw(8, 4), front=front)  # type: ignore[arg-type]  # one of the words
    (node,) = graph.operators()
    assert (node.kind, dict(node.record.attrs)) == ("topk", {"k": 2, "axis": 1, "result": "indices"})


class Least(nn.Module):
    """The least values."""

    def forward(self, x: Tensor) -> Tensor:
        return x.topk(2, largest=False).values


@pytest.mark.parametrize("model", [Least(), Best(2, 0, 0)])
def test_what_is_another_search_stays_opaque(model: nn.Module) -> None:
    assert "topk" not in {node.kind for node in trace_module(model.eval(), (draw(4, 4),))[0].operators()}


def test_records_that_make_no_sense_are_refused() -> None:
    x, attrs = (draw(4, 4),), {"k": 2, "axis": 1, "result": "values"}
    refused("k 5; allowed is a number from 1 to 4", "topk", x, {**attrs, "k": 5})
    refused("axis 0 is the batch", "topk", x, {**attrs, "axis": 0})
    refused("result 'best'; allowed: indices, values", "topk", x, {**attrs, "result": "best"})


def test_values_in_blocks_and_axes_that_do_not_travel_fastest_are_refused_by_name() -> None:
    x = draw(6, 4, 8)
    with pytest.raises(UnsupportedOp, match="the greatest values of mxint4b4e3 leave as they came"):
        build(quantized(Best(2, 0), x, "mxint4b4e3", {}))
    with pytest.raises(UnsupportedOp, match="axis 1 is not the one along which the result travels"):
        build(quantized(Best(2, 1, 1), x, "fixed6.3", {}))
