"""Products of matrices that are both computed, or one of them held."""

from __future__ import annotations

import torch

from tests.ops.single import compute, draw, refused

A, B = draw(2, 3, 4), draw(2, 4, 5, seed=1)


def test_products_on_either_side() -> None:
    assert torch.equal(compute("matmul", (A, B)), A @ B)
    assert torch.equal(compute("matmul", (A,), other=B), A @ B)
    assert torch.equal(compute("matmul", (B,), {"reverse": True}, other=A), A @ B)
    assert torch.equal(compute("matmul", (A, draw(4))), A @ draw(4))


def test_inner_sizes_must_agree() -> None:
    refused(r"\(2, 4, 5\) times \(2, 3, 4\): the inner sizes differ", "matmul", (B, A))
    refused("needs one second operand", "matmul", (A,))
    refused("needs one second operand", "matmul", (A, B), other=B)
