"""Signal to noise: by hand, bounded, and refused where shapes differ."""

from __future__ import annotations

import math

import pytest
import torch

from mase.errors import ConfigError
from mase.metrics.snr import MOST, snr


def test_by_hand() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert snr(wanted + torch.tensor([[0.5, 0.0], [0.0, 0.0]]), wanted) == 20.0  # 25 to 0.25
    assert snr(wanted * 2, wanted) == 0.0
    assert snr(torch.zeros(2, 2), wanted) == 0.0


def test_it_says_the_mean_squared_error() -> None:
    torch.manual_seed(0)
    wanted = torch.randn(20, 5, dtype=torch.float64)
    found = wanted + 0.1 * torch.randn(20, 5, dtype=torch.float64)
    error = float(((found - wanted) ** 2).mean())
    assert math.isclose(float((wanted**2).mean()) / 10 ** (snr(found, wanted) / 10), error, rel_tol=1e-12)  # of log10


def test_it_is_a_finite_number() -> None:
    ones = torch.ones(2, 3)
    assert snr(ones, ones) == MOST
    assert snr(torch.zeros(2, 3), torch.zeros(2, 3)) == MOST
    assert snr(ones, torch.zeros(2, 3)) == -MOST
    assert snr(ones * 1e300, ones) == -MOST  # infinite in float32
    assert snr(torch.full((2, 3), float("nan")), ones) == -MOST
    assert snr(ones.double() * (1 + 1e-16), ones) == MOST


@pytest.mark.parametrize(
    ("outputs", "wanted", "text"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 3), r"outputs \[2, 1\], wanted \[2, 3\]"),
        (torch.zeros(0, 1), torch.zeros(0, 1), "with a value or more"),
        (torch.zeros(1), torch.full((1,), float("inf")), "found NaN or infinity"),
        ([0.0], torch.zeros(1), "outputs: found list"),
    ],
)
def test_what_does_not_fit_is_told(outputs: torch.Tensor, wanted: torch.Tensor, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        snr(outputs, wanted)
