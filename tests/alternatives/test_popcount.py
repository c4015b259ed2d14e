"""Counted agreements in place of products: the same codes, wherever inputs are signs and weights binary."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import nn

from mase.alternatives.popcount import Popcount
from mase.blocks.popcount import PopcountBlock
from mase.netlist import build
from mase.ops.base import OPS
from mase.ops.decoded import Decoded
from mase.testing import Mapped, OpLaws, same_codes
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.conftest import prove

__all__ = ("prove",)  # a fixture of the operators' tests


def network(
    layers: list[nn.Module], shape: tuple[int, ...], source: str, formats: Mapping[str, tuple[str, str]]
) -> Mapped:
    """Return layers with a format of the weights and of the result each."""
    torch.manual_seed(len(shape))
    named = {name: NodeFormats(weight, output=result) for name, (weight, result) in formats.items()}
    folding = {name: Folding(2, 2) for name in formats}
    case = Network("popcount", layers, torch.randn(6, *shape), source, named, folding).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    """Return a layer alone, one behind signs, convolutions with and without a border, in groups, and two layers."""
    return {
        "popcount_linear": network([nn.Linear(7, 3)], (7,), "binary", {"0": ("binaryc", "int6")}),
        "popcount_ternary": network([nn.Linear(6, 4)], (2, 6), "ternary", {"0": ("binaryu", "fixed7.1")}),
        "popcount_two": network(
            [nn.Linear(5, 6), nn.Linear(6, 3)], (5,), "int5", {"0": ("fixed6.4", "binary"), "1": ("binary", "fixed8.3")}
        ),
    }


@cache
def images() -> Mapping[str, Mapped]:
    return {
        "popcount_conv": network([nn.Conv2d(4, 4, 2)], (4, 4, 3), "binaryu", {"0": ("binary", "ternaryu")}),
        "popcount_border": network([nn.Conv2d(2, 4, 3, padding=1)], (2, 3, 3), "binary", {"0": ("binaryc", "int6")}),
        "popcount_groups": network([nn.Conv1d(4, 8, 2, groups=2)], (4, 5), "int2", {"0": ("binary", "fixed7.2")}),
    }


class TestLinear(OpLaws):
    kind = "linear"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


class TestImages(OpLaws):
    kind = "conv"

    def graphs(self) -> Mapping[str, Mapped]:
        return images()


@pytest.mark.parametrize("name", [*cases(), *images()])
def test_they_stand_in_and_give_the_same(name: str) -> None:
    case = {**cases(), **images()}[name]
    node = case.graph.operators()[-1]
    netlist = build(case.graph)
    found = netlist.ops[node.name]
    found = found.core if isinstance(found, Decoded) else found
    assert isinstance(found, Popcount)
    usual = OPS[node.kind].from_node(node)  # type: ignore[attr-defined]  # it has hardware
    codes = netlist.codes(case.code)
    source = codes[node.inputs[0].name]
    assert same_codes(usual.reference(source), codes[node.name])
    (block,) = (
        i.block for i in netlist.instances if isinstance(i.block, PopcountBlock) and i.name.startswith(node.name)
    )
    assert block.has_zero == (name not in ("popcount_two", "popcount_conv"))


def test_multi_bit_weights_and_weights_of_zero_keep_their_products() -> None:
    for weight in ("int2", "ternary"):
        case = network([nn.Linear(6, 4)], (6,), "binary", {"0": (weight, "fixed7.1")})
        assert not any(isinstance(i.block, PopcountBlock) for i in build(case.graph).instances)
    wide = network([nn.Linear(6, 4)], (6,), "int3", {"0": ("binary", "fixed7.1")})
    assert not any(isinstance(i.block, PopcountBlock) for i in build(wide.graph).instances)
