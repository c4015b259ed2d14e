"""Thresholds in place of tables and multipliers: the same codes, where they are cheaper, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from mase.alternatives.threshold import Thresholds
from mase.blocks.threshold import Steps, Threshold
from mase.formats import Code
from mase.formats.grid import Grid
from mase.lowering import cheapest
from mase.netlist import build
from mase.ops.base import OPS, HardwareOp
from mase.ops.exact import NAMES
from mase.testing import Mapped, OpLaws
from tests.ops.branches import draw, mapped, quantized
from tests.ops.conftest import prove

__all__ = ("prove",)  # a fixture of the operators' tests

SIX = Grid(6, True, -32, 31)


def after(module: nn.Module, source: str, target: str, shape: tuple[int, ...], lanes: int) -> Mapped:
    """Return a function of codes of one format, with results of few bits."""
    x = 2 * draw(6, *shape, seed=lanes)
    graph = quantized(nn.Sequential(nn.Hardtanh(-4, 4), module), x, source, {"0": source, "1": target})
    return mapped(graph, x, {"1": (lanes, lanes)})


@cache
def cases() -> Mapping[str, Mapped]:
    """Return tables, polynomials and roundings with a scale; tails, one lane, a zero point."""
    return {
        "table": after(nn.Tanh(), "fixed10.6", "fixed3.1", (7,), 3),
        "polynomials": after(nn.Sigmoid(), "fixed13.9", "ufixed2.2", (2, 5), 1),
        "multiplier": after(nn.ReLU(), "int8", "int4", (2, 6), 4),
        "zero_point": after(nn.Tanh(), "int8a", "fixed2.0", (5,), 2),
    }


class TestLaws(OpLaws):
    kind = "activation"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def alternatives() -> Mapping[str, tuple[HardwareOp, HardwareOp]]:
    """Return the last operator of each case as its kind builds it, and what is built."""
    pairs = {}
    for name, case in cases().items():
        node = case.graph.operators()[-1]
        op = OPS[node.kind]
        assert issubclass(op, HardwareOp)
        pairs[name] = op.from_node(node), build(case.graph).ops[node.name]
    return pairs


def test_they_stand_in_and_give_the_same_at_every_code() -> None:
    for name, (usual, found) in alternatives().items():
        assert isinstance(found, Thresholds), name
        x, shape = found.steps.x, (found.function.order.rows, found.function.order.cols)
        every = torch.arange(x.low if found.function.first is None else found.function.first, x.high + 1)
        size = shape[0] * shape[1]
        padded = torch.cat((every, every[-1:].expand(-len(every) % size))).reshape(-1, *found.function.order.axes)
        assert torch.equal(found.reference(Code(padded)).mantissa, usual.reference(Code(padded)).mantissa), name


@pytest.mark.parametrize("mode", ["even", "half_up", "trunc"])
def test_thresholds_by_hand(mode: str) -> None:
    """Steps of eight: 4 and 12 are ties."""
    x, y = Grid(5, True, -16, 15), Grid(2, True, -2, 1)
    rounded = {
        "even": lambda c: (c / 8).round().long().clamp(-2, 1),
        "half_up": lambda c: ((c + 4) // 8).clamp(-2, 1),
        "trunc": lambda c: (c // 8).clamp(-2, 1),
    }[mode]
    steps = Steps.of(x, y, rounded, rising=False)
    assert steps is not None
    assert (steps.low, steps.thresholds) == (
        -2,
        {"even": (-11, -4, 5), "half_up": (-12, -4, 4), "trunc": (-8, 0, 8)}[mode],
    )
    assert [steps.scalar(c) for c in range(-16, 16)] == rounded(torch.arange(-16, 16)).tolist()


def test_wide_codes_are_halved_to_the_same_thresholds() -> None:
    def coarse(c: torch.Tensor) -> torch.Tensor:
        return (c // 5 + 3).clamp(0, 7)

    listed = Steps.of(SIX, Grid(3, False, 0, 7), coarse, rising=False)
    wide = replace(SIX, width=20, low=-(1 << 19), high=(1 << 19) - 1)
    halved = Steps.of(wide, Grid(3, False, 0, 7), coarse, rising=True)
    assert listed is not None and halved is not None
    assert listed.thresholds == halved.thresholds == (-10, -5, 0, 5, 10, 15, 20)


def test_what_has_no_thresholds_keeps_its_unit() -> None:
    four = Grid(4, True, -8, 7)
    assert Steps.of(SIX, four, lambda c: (c // 8).abs(), rising=False) is None  # falls
    assert Steps.of(SIX, four, torch.zeros_like, rising=False) is None  # one value
    assert Steps.of(SIX, Grid(6, True, -32, 31), lambda c: c, rising=True) is None  # 64 values
    assert (
        Steps.of(replace(SIX, width=17, high=1 << 16), four, lambda c: c // 8, rising=False) is None
    )  # too many to try
    wide = after(nn.Tanh(), "fixed8.4", "fixed6.4", (7,), 3)
    assert not isinstance(build(wide.graph).ops["_1"], Thresholds)


def test_the_cheaper_one_is_taken() -> None:
    """A plain shift into four bits costs less than fifteen comparisons."""
    shifted = after(nn.ReLU(), "fixed8.4", "fixed4.2", (7,), 3)
    node = shifted.graph.node("_1")
    op = OPS["activation"]
    assert issubclass(op, HardwareOp)
    usual = op.from_node(node)
    assert Thresholds.of(usual) is not None
    assert cheapest(usual) is usual


def test_every_function_of_few_values_is_the_same_at_every_code() -> None:
    """All functions that never fall on 8-bit codes, into three bits."""
    found = 0
    for function in sorted(NAMES - {"prelu", "power", "log", "sqrt", "rsqrt", "reciprocal"}):
        case = after(nn.ReLU(), "fixed8.4", "fixed3.0", (4,), 1)
        node = case.graph.node("_1")
        record = replace(node.record, attrs={**node.record.attrs, "function": function})
        graph = case.graph.replace({"_1": record})
        op = OPS["activation"]
        assert issubclass(op, HardwareOp)
        usual = op.from_node(graph.node("_1"))
        other = Thresholds.of(usual)
        if other is not None:
            every = Code(torch.arange(-64, 64).reshape(-1, 4))  # within the clamp before it
            assert torch.equal(other.reference(every).mantissa, usual.reference(every).mantissa), function
            found += 1
    assert found > 8


def test_padding_stays_zero() -> None:
    steps = Steps(SIX, Grid(3, False, 0, 7), 2, (0,))
    block = Threshold(1, 3, 2, steps)
    beats = block.stream_out.pack(*block.compute(Code(torch.zeros(1, 1, 3, dtype=torch.int64))))
    assert block.stream_out.tails(beats)
