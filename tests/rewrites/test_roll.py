"""Rolls are slices that are joined in the other order."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.frontend.module import trace_module
from mase.interpreter import is_exact
from mase.testing import Mapped, OpLaws
from passes.fuse import fuse
from tests.ops.branches import draw, mapped, quantized
from tests.ops.conftest import prove

__all__ = ("prove",)  # a fixture of the operators' tests


class Rolled(nn.Module):
    """Roll, and a function behind it."""

    def __init__(self, shifts: int | tuple[int, ...], axes: int | tuple[int, ...]) -> None:
        super().__init__()
        self.shifts, self.axes = shifts, axes

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(self.shifts, self.axes)


def rolled(shifts: int | tuple[int, ...], axes: int | tuple[int, ...], fmt: str, shape: tuple[int, ...]) -> Mapped:
    x = draw(6, *shape)
    model = nn.Sequential(nn.ReLU6(), Rolled(shifts, axes), nn.ReLU())
    return mapped(quantized(model, x, fmt, {"*": fmt}), x)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "roll_row": rolled(2, 1, "fixed6.3", (5,)),
        "roll_pixels": rolled((1, -1), (2, 3), "fixed5.2", (2, 3, 3)),
        "roll_blocks": rolled(1, 1, "mxint4b2e3", (3, 4)),
    }


class TestLaws(OpLaws):
    kind = "layout"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


@pytest.mark.parametrize(("shifts", "axes"), [(2, 1), (-3, 1), (7, 2), ((1, 2), (1, 2)), ((5, 1), (1, -1))])
def test_the_rewritten_roll_is_the_same(shifts: int | tuple[int, ...], axes: int | tuple[int, ...]) -> None:
    x = draw(4, 5, 3)
    graph = trace_module(Rolled(shifts, axes).eval(), (x,))[0]
    done = fuse(graph)[0]
    assert torch.equal(done(x), x.roll(shifts, axes))
    assert "roll" not in {node.record.attrs["function"] for node in done.operators()}
    assert [node.record.attrs["function"] for node in graph.operators()] == ["roll"]  # untouched


def test_all_of_it_is_exact_and_has_one_format() -> None:
    for case in cases().values():
        assert all(map(is_exact, case.graph.operators()))
        assert len({str(node.record.output.format) for node in case.graph.operators()}) == 1


def test_what_turns_nothing_or_the_batch_is_left() -> None:
    for shifts, axes in ((1, 0), (5, 1)):
        graph = fuse(trace_module(Rolled(shifts, axes).eval(), (draw(4, 5, 3),))[0])[0]
        assert [node.record.attrs.get("function") for node in graph.operators()] == ["roll"]
