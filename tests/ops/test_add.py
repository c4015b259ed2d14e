"""The kind add: two inputs, a parameter or a number on either side."""

from __future__ import annotations

import torch

from tests.ops.single import compute, draw, refused

A, B = draw(2, 3), draw(3, seed=1)


def test_every_second_operand_on_either_side() -> None:
    for function, f in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
        attrs = {"function": function}
        assert torch.equal(compute("add", (A, B), attrs), f(A, B))
        assert torch.equal(compute("add", (A,), attrs, other=B), f(A, B))
        assert torch.equal(compute("add", (A,), {**attrs, "reverse": True}, other=B), f(B, A))
        assert torch.equal(compute("add", (A,), {**attrs, "value": 3}), f(A, 3))
        assert torch.equal(compute("add", (A,), {**attrs, "value": 0.3, "reverse": True}), f(0.3, A))


def test_one_second_operand_is_needed() -> None:
    refused("has 0 second operands; allowed is 1", "add", (A,))
    refused("has 2 second operands; allowed is 1", "add", (A, B), {"value": 1})
    refused("has 3 inputs; allowed is 1 to 2", "add", (A, B, B))
    refused("function 'max'; allowed: ", "add", (A, B), {"function": "max"})
