"""The rounding modes, exact in float64: what each does with the part below the last kept bit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["even", "half_up", "half_away", "floor", "ceil", "zero", "stochastic"]
MODES: tuple[Rounding, ...] = ("even", "half_up", "half_away", "floor", "ceil", "zero", "stochastic")
SYMMETRIC = ("even", "half_away", "zero")  # modes for which round(-x) == -round(x)


def rounded(v: Tensor, mode: str, seed: int = 0) -> Tensor:
    """Return float64 ``v`` rounded to integers; ``v`` may be overwritten.

    Args:
        v: float64, any shape; infinity stays.
        mode: one of ``MODES``; ``even`` is nearest with ties to even, ``zero`` drops the fraction.
        seed: of the draw, one for each element, that ``stochastic`` compares the fraction with.
    """
    if mode == "even":
        return v.round_()
    if mode == "floor":
        return v.floor_()
    if mode == "ceil":
        return v.ceil_()
    if mode == "zero":
        return v.trunc_()
    if mode == "half_away":
        return torch.copysign(_half_up(v.abs()), v)
    return _half_up(v) if mode == "half_up" else _stochastic(v, seed)


def _half_up(v: Tensor) -> Tensor:
    down = v.floor()  # not floor(v + 0.5): that sum itself rounds, just below a half
    return down + (v - down >= 0.5)


def _stochastic(v: Tensor, seed: int) -> Tensor:
    """Round up with probability equal to the fraction: unbiased, integers stay."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same
    noise = torch.rand(v.shape, dtype=torch.float64, generator=generator).to(v.device)
    down = v.floor()
    return down + (noise < v - down)
