"""What streams, rounding and lanes ask of a grid, and the bits of a number."""

from __future__ import annotations

from mase.errors import UnsupportedOp
from mase.formats import Format, QuantParams
from mase.formats.grid import Grid


def activation_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of a tensor that travels on a stream.

    Raises:
        UnsupportedOp: as :meth:`mase.formats.Format.grid`; or the format has a scale for each channel.
    """
    if params.scale is not None and params.scale.numel() > 1:
        raise UnsupportedOp(f"{where}: {fmt} has a scale a channel; activations take one scale a tensor")
    return fmt.grid(params, where)


def produced_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of a tensor that a node rounds.

    Raises:
        UnsupportedOp: as :func:`activation_grid`; or the format has a rounding of its own.
    """
    mode = getattr(fmt, "rounding", "even")
    if mode != "even":
        raise UnsupportedOp(f"{where}: format {fmt} rounds by {mode}; on chip the node's field rounding decides")
    return activation_grid(fmt, params, where)


def check_lanes(where: str, grid: Grid, lanes: int) -> None:
    """Raise unless the lanes divide the block or the block divides the lanes (docs/arithmetic.md, 7)."""
    if grid.block and lanes % grid.block and grid.block % lanes:
        raise UnsupportedOp(
            f"{where}: {lanes} lanes do not fit blocks of {grid.block}; "
            f"allowed are divisors and multiples of {grid.block}"
        )


def signed_width(low: int, high: int) -> int:
    """Return the bits of the smallest two's complement word that holds ``low`` to ``high``."""
    return max((-low - 1).bit_length() if low < 0 else 0, high.bit_length() if high > 0 else 0) + 1
