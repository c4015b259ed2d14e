"""Fit LUTs to what synthesis gave, by non-negative least squares on relative errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from bench.calibration.blocks import FRAME, PRODUCTS, Point
from mase.cost.device import Device
from mase.cost.features import Features, features
from mase.cost.resources import Resources, fitted_luts
from mase.cost.table import Error, Table

ROM_WORDS = (4, 8, 16, 32, 64, 128, 256, 1024, 2048)  # between which a column's LUTs lie on straight lines
SHARE_WORDS = (1, 2, 4, 8)
SMALL = 50  # LUTs: blocks below this size count by their absolute error

NOTHING = ((1.0,), (0.0,))  # a curve that is not known yet

Found = Mapping[str, Resources]  # what synthesis gave, by the point's name


def fitted(points: Sequence[Point], found: Found, device: Device, tool: str, script: str) -> Table:
    """Return the table that fits best; its error on whole designs is left open."""
    frame = found[FRAME].lut
    products = {p.product: (found[p.name].lut - frame) / PRODUCTS for p in points if p.product}
    plain = Table(device.name, tool, script, device.family, 0, {}, 0, {}, {}, NOTHING, products, NOTHING)
    used = [p for p in points if p.product is None and p.name != FRAME]
    parts = [features(p.work, device) for p in used]
    names = tuple(parts[0].fitted)
    goal = np.array([found[p.name].lut - (frame if p.framed else 0) for p in used])
    weight = 1 / (goal + SMALL)
    rows = np.array([_row(part, names, plain, p.framed) for p, part in zip(used, parts, strict=True)])
    rest = goal - np.array([float(part.lut) for part in parts])
    solution, _ = nnls(rows * weight[:, None], rest * weight)
    ends = np.cumsum([len(names), len(ROM_WORDS)])
    luts, rom, shares = (np.round(part, 4).tolist() for part in np.split(solution, ends))
    table = Table(
        device.name,
        tool,
        script,
        device.family,
        len(points),
        {},
        0,
        {},
        dict(zip(names, luts, strict=True)),
        ((1.0, *map(float, ROM_WORDS)), (0.0, *rom)),
        products,
        (tuple(map(float, SHARE_WORDS)), tuple(shares)),
    )
    return table


def error(predicted: Sequence[float], measured: Sequence[float]) -> Error:
    """Return median and greatest relative error."""
    off = np.abs(np.array(predicted) / np.array(measured) - 1)
    return Error(round(float(np.median(off)), 4), round(float(off.max()), 4))


def _row(part: Features, names: Sequence[str], table: Table, framed: bool) -> list[float]:
    """Return the unknowns' factors: features, columns of ROMs by words, products by words."""
    plain = [0.0 if framed and name == "block" else float(part.fitted[name]) for name in names]
    rom = sum(
        (float(columns) * _hats(float(words), ROM_WORDS) for columns, words in part.roms), np.zeros(len(ROM_WORDS))
    )
    luts = sum(float(count) * table.product(a, b) for count, a, b in part.products)
    return [*plain, *rom, *(luts * _hats(float(part.words), SHARE_WORDS))]


def _hats(x: float, nodes: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return what each node's value weighs at ``x`` on the lines between them; it falls to 0 at 1 word."""
    low = 1.0 if x >= nodes[0] else (x - 1) / (nodes[0] - 1)
    return low * np.array([float(np.interp(x, nodes, row)) for row in np.eye(len(nodes))])


def block_errors(points: Sequence[Point], found: Found, device: Device, table: Table) -> dict[str, Error]:
    """Return the error of a table on the blocks that it was fitted to, frames apart."""
    used = [p for p in points if not p.framed]
    parts = [features(p.work, device) for p in used]
    luts = [float(part.lut + fitted_luts(part, table)) for part in parts]
    return {
        "lut": error(luts, [found[p.name].lut for p in used]),
        "ff": error([float(part.ff) for part in parts], [found[p.name].ff for p in used]),
    }
