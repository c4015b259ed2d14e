"""Rotary embedding turns pairs by their angle and keeps their length."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.ops.single import compute, draw, refused


def tables(length: int, size: int, paired: bool) -> tuple[Tensor, Tensor]:
    angles = torch.outer(torch.arange(length), 10.0 ** -torch.arange(0, size, 2).div(size))
    angles = angles.repeat_interleave(2, -1) if paired else angles.repeat(1, 2)
    return angles.cos(), angles.sin()


def by_definition(x: Tensor, first: list[int], second: list[int]) -> Tensor:
    """Multiply complex numbers ``x[first] + i x[second]`` by ``exp(i angle)``."""
    y = x.clone()
    size = len(first) + len(second)
    for position in range(x.shape[-2]):
        for i, (a, b) in enumerate(zip(first, second, strict=True)):
            turn = torch.polar(torch.tensor(1.0), torch.tensor(position * 10.0 ** (-2 * i / size)))
            z = torch.complex(x[..., position, a], x[..., position, b]) * turn
            y[..., position, a], y[..., position, b] = z.real, z.imag
    return y


def test_halves_and_neighbours_by_definition() -> None:
    x = draw(2, 3, 5, 8)
    halves = compute("rotary", (x, *tables(5, 8, False)), {"head_size": 8})
    torch.testing.assert_close(halves, by_definition(x, [0, 1, 2, 3], [4, 5, 6, 7]))
    neighbours = compute("rotary", (x, *tables(5, 8, True)), {"head_size": 8, "form": "interleaved"})
    torch.testing.assert_close(neighbours, by_definition(x, [0, 2, 4, 6], [1, 3, 5, 7]))


def test_features_beyond_the_tables_pass() -> None:
    x = draw(2, 3, 5, 8)
    y = compute("rotary", (x, *tables(5, 4, False)), {"head_size": 8})
    assert torch.equal(y[..., 4:], x[..., 4:])
    torch.testing.assert_close(y[..., :4], by_definition(x[..., :4], [0, 1], [2, 3]))


def test_tables_that_do_not_fit_are_refused() -> None:
    x, (cos, sin) = draw(1, 2, 5, 8), tables(5, 8, False)
    refused(".*these do not fit", "rotary", (x[..., :4], cos, sin))
    refused(".*these do not fit", "rotary", (x, cos, sin[:3]))
    refused("has 2 inputs; allowed is 3", "rotary", (x, cos))
    refused("form 'pairs'; allowed: half, interleaved", "rotary", (x, cos, sin), {"form": "pairs"})
