"""Rows of a group come to one exponent: floor of what lies below it, and no exponent below a given one."""

from __future__ import annotations

import pytest
import torch

from mase.blocks.align import Align, Alignment
from mase.formats import Code, QuantParams, parse
from mase.testing import count_port, module_parameters


def test_a_group_by_hand() -> None:
    """Exponents 3 and 1: 5 stays 5, and -3 / 4 with two guard bits is -3."""
    grid = parse("mxint4b2e3").grid(QuantParams(base=torch.tensor(0)), "here")
    rows = Code(torch.tensor([[[5, 1], [-3, 7]]]), torch.tensor([[[3], [1]]]))
    found = Alignment(grid, 2, 2).apply(rows)
    assert found.mantissa.tolist() == [[[20, 4], [-3, 7]]]
    assert found.exponent is not None
    assert found.exponent.tolist() == [[[3], [3]]]
    floor = Alignment(grid, 2, 2, torch.tensor([5])).apply(rows)
    assert floor.mantissa.tolist() == [[[5, 1], [-1, 1]]]  # -3 / 4 is below 0 by less than a step: -1


@pytest.mark.parametrize("text", ["mxint5b4e3", "mxint8b2", "mxint4b1e4", "bfp4b4e4"])
@pytest.mark.parametrize("floors", [False, True])
def test_it_is_its_definition(text: str, floors: bool) -> None:
    torch.manual_seed(1)
    grid = parse(text).grid(QuantParams(base=torch.tensor(-3)), "here")
    taps, cols = 3, 6
    blocks = -(-cols // grid.block)
    rows = Code(
        torch.randint(grid.low, grid.high + 1, (2, 4 * taps, cols)),
        torch.randint(0, grid.span + 1, (2, 4 * taps, blocks)) + grid.base,
    )
    made = Alignment(grid, taps, 5, torch.arange(blocks) if floors else None)
    found = made.apply(rows)
    assert rows.exponent is not None
    assert found.exponent is not None
    for n in range(2):
        for g in range(4):
            for c in range(cols):
                at = slice(g * taps, (g + 1) * taps)
                exps = (rows.exponent[n, at, c // grid.block] - grid.base).tolist()
                column = list(zip(rows.mantissa[n, at, c].tolist(), exps, strict=True))
                integers, top = made.scalar(column, c // grid.block)
                assert found.mantissa[n, at, c].tolist() == integers
                assert (found.exponent[n, at, c // grid.block] - grid.base).tolist() == [top] * taps


@pytest.mark.parametrize("floors", [False, True])
def test_the_block_is_that_of_the_module(floors: bool) -> None:
    grid = parse("mxint5b4e3").grid(QuantParams(base=torch.tensor(0)), "here")
    block = Align(2, 10, 4, Alignment(grid, 3, 4, torch.tensor([1, 0, 7]) if floors else None))
    known = {name for name, default in module_parameters("mase_align").items() if default != '""'}
    assert set(block.sv_params()) == known
    (first, second) = block.schedule().actors
    assert count_port(first.body, "in") == count_port(second.body, "out") == block.stream_in.beats
    if floors:
        assert list(block.memories()["LeastFile"].words) == [1, 0, 7]
