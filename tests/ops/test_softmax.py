"""Softmax, its logarithm, another dtype."""

from __future__ import annotations

import torch

from tests.ops.single import compute, draw, refused


def test_it_computes_what_torch_computes() -> None:
    x = draw(2, 3, 4)
    assert torch.equal(compute("softmax", (x,), {"axis": 1}), x.softmax(1))
    assert torch.equal(compute("softmax", (x,), {"axis": -1, "log": True}), x.log_softmax(-1))
    narrow = x.bfloat16()
    wide = compute("softmax", (narrow,), {"axis": 2, "dtype": "float32"})
    assert (wide.dtype, torch.equal(wide, torch.softmax(narrow, 2, dtype=torch.float32))) == (torch.float32, True)


def test_an_axis_that_is_not_there_is_refused() -> None:
    refused("axis 3; allowed is an axis of 3", "softmax", (draw(2, 3, 4),), {"axis": 3})
    refused("axis None; allowed is an axis of 3", "softmax", (draw(2, 3, 4),))
