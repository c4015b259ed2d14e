"""What streams, rounding and lanes ask of a grid, and the bits of a number."""

from __future__ import annotations

from mase.errors import UnsupportedOp
from mase.formats import Format, QuantParams
from mase.formats.grid import Grid


def activation_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of the integers that a tensor on a stream stands for: a unit that takes it gets them decoded.

    Raises:
        UnsupportedOp: as :meth:`mase.formats.Format.grid`; or the format has a scale for each channel.
    """
    return stream_grid(fmt, params, where).plain


def stream_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of the codes of a tensor on a stream.

    Raises:
        UnsupportedOp: as :func:`activation_grid`.
    """
    grid = fmt.grid(params, where)
    if params.scale is not None and params.scale.numel() > 1:
        raise UnsupportedOp(f"{where}: {fmt} has a scale a channel; activations take one scale a tensor")
    return grid


def produced_grid(fmt: Format, params: QuantParams, where: str) -> Grid:
    """Return the grid of a tensor that a node rounds.

    Raises:
        UnsupportedOp: as :func:`activation_grid`; or the format has a rounding of its own.
    """
    mode = getattr(fmt, "rounding", "even")
    if mode != "even":
        raise UnsupportedOp(f"{where}: format {fmt} rounds by {mode}; on chip the node's field rounding decides")
    return stream_grid(fmt, params, where)


def check_lanes(where: str, grid: Grid, lanes: int) -> None:
    """Raise unless the lanes divide the block or the block divides the lanes (docs/arithmetic.md, 7)."""
    if grid.block and lanes % grid.block and grid.block % lanes:
        raise UnsupportedOp(
            f"{where}: {lanes} lanes do not fit blocks of {grid.block}; "
            f"allowed are divisors and multiples of {grid.block}"
        )
