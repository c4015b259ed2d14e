"""Pooling over windows, to a size, over axes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.ops.single import compute, draw, refused

X = draw(2, 3, 7, 6)


def test_windows() -> None:
    attrs = {"function": "max", "size": [3, 2], "stride": [2, 1], "padding": [1, 0], "dilation": [1, 2], "ceil": True}
    expected = F.max_pool2d(X, (3, 2), (2, 1), (1, 0), (1, 2), True)
    assert torch.equal(compute("pool", (X,), attrs), expected)
    attrs = {"function": "average", "size": [3, 3], "stride": [2, 2], "padding": [1, 1], "count_padding": False}
    assert torch.equal(compute("pool", (X,), attrs), nn.AvgPool2d(3, 2, 1, count_include_pad=False)(X))
    line = draw(2, 3, 9)
    assert torch.equal(compute("pool", (line,), {"function": "max", "size": [2]}), F.max_pool1d(line, 2))


@pytest.mark.parametrize("size", [[2, 3], [None, 2], [1, 1]])
def test_to_a_size(size: list[int | None]) -> None:
    for function, pool in (("adaptive_average", F.adaptive_avg_pool2d), ("adaptive_max", F.adaptive_max_pool2d)):
        assert torch.equal(compute("pool", (X,), {"function": function, "size": size}), pool(X, size))


@pytest.mark.parametrize("function", ["mean", "sum", "amax", "amin"])
def test_over_axes(function: str) -> None:
    expected = getattr(X, function)((2, 3), keepdim=True)
    assert torch.equal(compute("pool", (X,), {"function": function, "axes": [2, 3], "keepdim": True}), expected)
    assert torch.equal(compute("pool", (X,), {"function": function, "axes": [-1]}), getattr(X, function)(-1))


def test_wrong_records_are_refused() -> None:
    refused("function 'median'; allowed: ", "pool", (X,), {"function": "median"})
    refused("size None; allowed is a list", "pool", (X,), {"function": "max"})
    refused("axes \\[4\\]; allowed are axes of 4", "pool", (X,), {"function": "mean", "axes": [4]})
