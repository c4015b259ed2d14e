"""Parts of the README of an emitted folder: what codes are worth, what is buffered, which clock, which version."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from emit.design import Edge

PLACES = 17  # significant digits that tell any float64


def codes(feed: Edge, give: Edge) -> str:
    """Say in numbers what the codes on both streams are worth."""
    return f"{_value('Input', feed)}{_value('Output', give)}"


def _value(side: str, edge: Edge) -> str:
    grid = edge.stream.grid
    kind = "two's complement" if grid.signed else "unsigned"
    element = f"- {side}, `{edge.format}`: an element is {grid.width} bits, {kind}, from {grid.low} to {grid.high}"
    if grid.block:
        return f"{element},\n  and {grid.block} elements of a row share an exponent e. {_blocks(edge)}"
    step = float(edge.params.scale) if grid.scaled and edge.params.scale is not None else 2.0**grid.unit
    ends = f"{_number(grid.low * step)} to {_number(grid.high * step)}"
    if grid.scaled:
        return f"{element}.\n  value = code x {_number(step)}: {ends}.\n"
    fraction = f"{-grid.unit} fraction bits" if grid.unit <= 0 else f"the last bit is worth 2^{grid.unit}"
    return f"{element}.\n  value = code x 2^{grid.unit} = code x {_number(step)} ({fraction}): {ends}.\n"


def _blocks(edge: Edge) -> str:
    grid = edge.stream.grid
    power, top = grid.unit - grid.base, grid.base + grid.span
    greatest = _number(grid.high * 2.0 ** (top + power))
    return (
        f"value = mantissa x 2^(e {_signed(power)}),\n  e = field {_signed(grid.base)}; "
        f"a field is {grid.exp_bits} bits, unsigned, from 0 to {grid.span}.\n"
        f"  The least step is 2^{grid.unit} = {_number(2.0**grid.unit)}, the greatest magnitude {greatest}.\n"
    )


def _signed(x: int) -> str:
    return f"- {-x}" if x < 0 else f"+ {x}"


def _number(x: float) -> str:
    """Return the shortest decimal that reads back as the same float64."""
    return repr(x) if abs(x) < 1e16 and (x == 0 or abs(x) >= 1e-4) else f"{x:.{PLACES}g}"


def buffering(manifest: Mapping[str, Any]) -> str:
    """Say how much the design takes while nobody reads its output."""
    beats, sample = manifest["buffers"]["input_beats"], manifest["edges"][0]["beats"]
    return (
        f"While `out_ready_i` stays low the core takes {beats} input beats ({beats / sample:.4g} samples), then\n"
        "lowers `in_ready_o`; it holds what it took, loses nothing, and goes on where it stopped. The register slices\n"
        "of the AXI wrapper hold two beats each besides. No FIFO can overflow, and neither side needs a least rate.\n"
    )


def clock(manifest: Mapping[str, Any]) -> str:
    """Say which clock was assumed, and what follows from it."""
    assumed, cycles = manifest["clock_mhz"], manifest["cycles"]
    if assumed is None:
        return "No clock was assumed for this design, and the design was not placed, routed or timed.\n"
    rate, delay = assumed * 1e6 / float(Fraction(cycles["interval"])), cycles["latency"] / assumed
    return (
        f"A clock of {assumed:g} MHz was assumed: {rate:.6g} samples a second, {delay:.4g} us latency.\n"
        "This is only an assumption: the design was not placed, routed or timed.\n"
    )


def origin(manifest: Mapping[str, Any]) -> str:
    """Say what wrote the folder, and how to tell whether it is still what was written."""
    return (
        f"Written by mase {manifest['version']}. `sha256sum -c SHA256SUMS` checks the sources and the memories;\n"
        f"the digest of that file is the design's, also in `design.json`:\n`{manifest['digest']}`.\n"
    )
