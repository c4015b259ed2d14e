"""Flatten and reshape: every element in its place, whatever the lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from mase.errors import GraphError, UnsupportedOp
from mase.frontend.module import trace_module
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network


def mapped(
    layers: list[nn.Module], shape: tuple[int, ...], fmt: str, lanes: Mapping[str, tuple[int, int]], **kwargs: str
) -> Mapped:
    """Return layers with one activation format and linear lanes by path."""
    torch.manual_seed(len(layers))
    formats = {str(i): NodeFormats("int4", output=fmt) for i, m in enumerate(layers) if isinstance(m, nn.Linear)}
    folding = {path: Folding(*pair) for path, pair in lanes.items()}
    case = Network("layout", layers, torch.randn(6, *shape), kwargs.get("inputs", "fixed7.4"), formats, folding).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    flat = [nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 2)]
    up = [nn.Linear(4, 12), nn.Unflatten(1, (4, 3)), nn.Linear(3, 5)]
    return {
        "flatten": mapped(flat, (5, 4), "fixed6.3", {"0": (2, 2), "2": (4, 1)}),
        "flatten_wide": mapped(flat, (5, 4), "int6", {"0": (4, 3), "2": (16, 2)}),
        "unflatten": mapped(up, (4,), "fixed6.3", {"0": (1, 5), "2": (2, 2)}),
        "blocks": mapped(
            [nn.Linear(4, 8), nn.Flatten(), nn.Linear(24, 3)], (3, 4), "mxint5b4e3", {"0": (2, 2), "2": (8, 4)}
        ),
        "last": mapped([nn.Linear(4, 6), nn.Unflatten(1, (2, 3))], (4,), "fixed6.3", {"0": (1, 4)}),
    }


class TestLaws(OpLaws):
    kind = "layout"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_flatten_at_the_input_is_the_hosts() -> None:
    source = mapped([nn.Flatten(), nn.Linear(12, 3)], (3, 4), "fixed6.3", {"1": (4, 1)})
    netlist = build(source.graph)
    assert ([i.node for i in netlist.instances], netlist.stream_in.rows, netlist.stream_in.cols) == (["_1"], 1, 12)


def test_a_reshape_that_moves_nothing_has_no_hardware_but_keeps_its_name() -> None:
    source = mapped([nn.Linear(4, 6), nn.Flatten(), nn.Linear(6, 2)], (1, 4), "fixed6.3", {"0": (1, 6), "2": (6, 1)})
    netlist = build(source.graph)
    assert [i.node for i in netlist.instances] == ["_0", "_2"]
    assert list(netlist.edges()) == ["input_1", "_1", "_2"]
    assert netlist.codes(source.code)["_1"].mantissa.shape == (len(source.code.mantissa), 6)


def test_blocks_must_tile_both_rows() -> None:
    with pytest.raises(UnsupportedOp, match=r"node '1' .*blocks of 4 do not tile rows of 6 and of 18"):
        mapped([nn.Linear(4, 6), nn.Flatten(), nn.Linear(18, 3)], (3, 4), "mxint5b4e3", {})


def test_a_shape_that_does_not_fit_is_refused_by_the_record() -> None:
    graph, _ = trace_module(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3))).eval(), (torch.randn(2, 4),))
    node = graph.node("1")
    with pytest.raises(GraphError, match=r"node '1' .*\(6,\) cannot become \(2, 4\)"):
        graph.replace({node.name: replace(node.record, attrs={"shape": [2, 4]})}).verify()
