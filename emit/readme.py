"""Parts of the README of an emitted folder: what codes are worth, what is buffered, which clock, which version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from emit.design import Edge, Ends

PLACES = 17  # significant digits that tell any float64


def streams(ends: Ends) -> str:
    """Say how many streams there are, and, of several, what they carry."""
    if ends.single:
        return "The design has one input stream and one output stream"
    ins, outs = (", ".join(f"`{port.name}`" for port in ports) for ports in (ends.inputs, ends.outputs))
    return f"The design has the input streams {ins}\nand the output streams {outs}"


def vectors(ends: Ends, files: Sequence[str], samples: int) -> str:
    """Say what the vector files hold."""
    if ends.single:
        return (
            f"- `{files[0]}` and `{files[1]}` hold {samples} samples, one beat a line: feed the first,\n"
            "  expect the second.\n"
        )
    named = ", ".join(f"`{name}`" for name in files)
    return f"- {named}\n  hold {samples} samples, one beat a line: feed the inputs, expect the outputs.\n"


def beats(ends: Ends) -> str:
    """Say how many beats a sample has."""
    if ends.single:
        return f"A sample enters as {ends.inputs[0].stream.beats} beats and leaves as {ends.outputs[0].stream.beats}."
    ins, outs = (
        " and ".join(f"{port.stream.beats} beats at `{port.name}`" for port in ports)
        for ports in (ends.inputs, ends.outputs)
    )
    return f"A sample enters as {ins}\nand leaves as {outs}. Samples of several streams belong together by their order."


def row(ends: Ends) -> str:
    """Say what a row is."""
    return "the last dimension" if all(p.edge.travel.plain for p in ends.all) else "the dimension that travels fastest"


def order(ends: Ends) -> str:
    """Say in which order elements travel, where it is not that of the tensor."""
    lines = []
    for port in ends.all:
        axes, order = port.edge.travel
        if not port.edge.travel.plain:
            lines.append(f"- `{port.name}`: the sample as {list(axes)}, its axes transposed to {list(order)}.\n")
    return (
        f"Elements travel in another order than the tensor holds them, the last axis fastest:\n\n{''.join(lines)}\n"
        if lines
        else ""
    )


def always(ends: Ends) -> str:
    """Say when the cycles hold."""
    if ends.single:
        return "With a source that is always valid and a sink that is always ready"
    return "With sources that are always valid and sinks that are always ready"


def each(manifest: Mapping[str, Any], ends: Ends) -> str:
    """Say the cycles of each output, where there are several."""
    if len(ends.outputs) == 1:
        return ""
    found = manifest["cycles"]["outputs"]
    return (
        "A sample is complete when its last output is. By output:\n\n"
        + "".join(
            f"- `{name}`: first beat {at['first_output']}, last beat of sample 0 {at['latency']}.\n"
            for name, at in found.items()
        )
        + "\n"
    )


def codes(ends: Ends) -> str:
    """Say in numbers what the codes on all streams are worth."""
    if ends.single:
        return f"{_value('Input', ends.inputs[0].edge)}{_value('Output', ends.outputs[0].edge)}"
    return "".join(_value(f"`{port.name}`", port.edge) for port in ends.all)


def _value(side: str, edge: Edge) -> str:
    grid = edge.stream.grid
    kind = "two's complement" if grid.signed else "unsigned"
    element = f"- {side}, `{edge.format}`: an element is {grid.width} bits, {kind}, from {grid.low} to {grid.high}"
    if grid.plain is not grid:
        return f"{element}.\n  The code is that of the format; `host.py` gives its value.\n"
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


def buffering(manifest: Mapping[str, Any], ends: Ends) -> str:
    """Say how much the design takes while nobody reads its outputs."""
    taken = manifest["buffers"]["input_beats"]
    held = {port.name: (taken[port.name], taken[port.name] / port.stream.beats) for port in ends.inputs}
    if ends.single:
        beats, samples = held["in"]
        return (
            f"While `out_ready_i` stays low the core takes {beats} input beats ({samples:.4g} samples), then\n"
            "lowers `in_ready_o`; it holds what it took, loses nothing, and goes on where it stopped. The register\n"
            "slices of the AXI wrapper hold two beats each besides. No FIFO can overflow, and neither side needs a\n"
            "least rate.\n"
        )
    each = ", ".join(f"{beats} beats ({samples:.4g} samples) at `{name}`" for name, (beats, samples) in held.items())
    return (
        f"While no output is read the core takes {each}, then\n"
        "lowers `ready_o` there; it holds what it took, loses nothing, and goes on where it stopped. An output that\n"
        "is not read holds up the inputs that it depends on, and through them other outputs: read all of them. The\n"
        "register slices of the AXI wrapper hold two beats each besides. No FIFO can overflow, and no side needs a\n"
        "least rate.\n"
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
