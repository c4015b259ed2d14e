"""A ReLU that stands alone: its own rounding to its own format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from mase.errors import GraphError
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.netlist import build
from mase.ops.activation import not_negative
from mase.testing import Mapped, OpLaws
from passes.fuse import fuse
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network


def mapped(source: str, target: str, size: int, lanes: int) -> Mapped:
    torch.manual_seed(size)
    formats = {"0": NodeFormats(output=target)}
    case = Network("relu", [nn.ReLU()], torch.randn(6, size), source, formats, {"0": Folding(lanes, lanes)}).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "relu_fixed": mapped("fixed6.4", "ufixed4.2", 7, 3),
        "relu_int": mapped("int5", "int4", 5, 8),
        "relu_blocks": mapped("mxint5b4e3", "mxint4b4e2", 9, 2),
        "relu_into_blocks": mapped("fixed8.5", "mxint4b8e3", 9, 4),
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


def test_other_functions_are_refused_by_the_record() -> None:
    graph = chain(nn.ReLU())
    node = graph.node("0")
    with pytest.raises(GraphError, match=r"node '0' .*function 'galu'; allowed: abs, .*gelu, .*relu"):
        graph.replace({node.name: replace(node.record, attrs={"function": "galu"})}).verify()
