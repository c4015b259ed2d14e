"""What is kept is what would be made; nothing is kept outside, and memory is bounded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mase.blocks.sums import _Terms, _Weights
from mase.formats import Code, QuantParams
from mase.formats import kept as module
from mase.formats.grid import Grid
from mase.formats.kept import Kept, kept


def made(x: Tensor, params: QuantParams, n: int) -> tuple[Tensor, int]:
    return x * n, n


def test_equal_arguments_give_one_object_within_and_another_one_outside() -> None:
    x, params, store = torch.ones(3), QuantParams(), Kept()
    with store.used():
        first = kept(made, x, params, 2)
        assert kept(made, x, params, 2) is first
        assert kept(made, x, params, 3) is not first
        assert kept(made, x.clone(), params, 2) is not first
        assert kept(made, x, QuantParams(), 2) is not first
    assert kept(made, x, params, 2) is not first
    with store.used():
        assert kept(made, x, params, 2) is first


def test_the_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3 * module.SMALL)
    store, params, tensors = Kept(), QuantParams(), [torch.ones(1) for _ in range(4)]
    with store.used():
        first, second = (kept(made, x, params, 1) for x in tensors[:2])
        assert kept(made, tensors[0], params, 1) is first
        kept(made, tensors[2], params, 1)
        assert kept(made, tensors[0], params, 1) is first
        assert kept(made, tensors[1], params, 1) is not second


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255), (-1, 1), (3, 9), (-(1 << 30), 1 << 30)])
@pytest.mark.parametrize("bits", [4, 20])
def test_bounds_of_sums_are_those_of_all_products(low: int, high: int, bits: int) -> None:
    """The sums above and below 0, each times an end, are the sums of the greater and the lesser products."""
    torch.manual_seed(0)
    w = torch.randint(-(1 << bits), 1 << bits, (5, 1, 7))
    x, grid = Grid(40, True, min(low, 0), high), Grid(bits + 1, True, -(1 << bits), (1 << bits) - 1)
    bias = torch.randint(-1000, 1000, (5,)).double()
    start, _, bound, width, _ = _Terms(x, grid, 0, low, _Weights(grid, Code(w), None, None), bias, None).exact("here")
    products = [[[int(v) * end for end in (low, high)] for v in row[0]] for row in w]
    tops = [max(0, int(b)) + sum(max(0, *ends) for ends in row) for b, row in zip(bias, products, strict=True)]
    ends = [min(0, int(b)) + sum(min(0, *ends) for ends in row) for b, row in zip(bias, products, strict=True)]
    assert torch.equal(start, bias.long())
    assert width == max((-min(ends) - 1).bit_length(), max(tops).bit_length()) + 1
    reach = max(abs(low), high)
    assert bound == max(abs(int(b)) + sum(abs(int(v)) for v in row[0]) * reach for b, row in zip(bias, w, strict=True))
