"""A constant gives what it holds, without a copy."""

from __future__ import annotations

import torch

from tests.ops.single import draw, refused, single


def test_it_gives_the_tensor_itself() -> None:
    value = draw(2, 3)
    assert single("constant", (), value=value).verify()().data_ptr() == value.data_ptr()


def test_a_constant_without_value_or_with_an_input_is_refused() -> None:
    refused("has no operand 'value'", "constant", ())
    refused("has 1 inputs; allowed is 0", "constant", (torch.zeros(1),), value=draw(2))
