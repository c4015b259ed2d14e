"""Embedding picks rows."""

from __future__ import annotations

import torch

from tests.ops.single import compute, draw, refused


def test_rows_are_picked_after_the_offset() -> None:
    ids, weight = torch.tensor([[0, 2], [1, 1]]), draw(5, 3)
    assert torch.equal(compute("embedding", (ids,), weight=weight), weight[ids])
    assert torch.equal(compute("embedding", (ids,), {"offset": 2, "padding_idx": 0}, weight=weight), weight[ids + 2])


def test_wrong_records_are_refused() -> None:
    refused("input is float32; allowed are int64 and int32", "embedding", (draw(2),), weight=draw(5, 3))
    refused(r"weight has shape \(5,\)", "embedding", (torch.tensor([1]),), weight=draw(5))
    refused("has no operand 'weight'", "embedding", (torch.tensor([1]),))
