"""What streams and lanes ask of a grid: one scale, lanes that fit blocks, the least bits of a number."""

from __future__ import annotations

import pytest
import torch

from mase.dataflow.grid import activation_grid, check_lanes
from mase.errors import UnsupportedOp
from mase.formats import QuantParams
from mase.formats.grid import signed_width
from mase.formats.int import Int
from mase.formats.mxint import MXInt


def test_activations_have_one_scale() -> None:
    fmt, params = Int(8, channel=True), QuantParams(scale=torch.tensor([1.0, 0.5]), axis=0)
    with pytest.raises(UnsupportedOp, match=r"node 'fc': int8c has a scale a channel; activations take one scale"):
        activation_grid(fmt, params, "node 'fc'")


def test_lanes_fit_blocks() -> None:
    on_chip = MXInt(8, 8, 4).grid(QuantParams(base=torch.tensor(0)), "here")
    for lanes in (1, 2, 4, 8, 16, 24):
        check_lanes("here", on_chip, lanes)
    for lanes in (3, 5, 6, 12):
        with pytest.raises(
            UnsupportedOp, match=f"{lanes} lanes do not fit blocks of 8; allowed are divisors and multiples"
        ):
            check_lanes("here", on_chip, lanes)


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-2, 2, 3), (-128, 127, 8), (-129, 0, 9), (0, 128, 9)],
)
def test_signed_width_is_the_least(low: int, high: int, bits: int) -> None:
    assert signed_width(low, high) == bits
