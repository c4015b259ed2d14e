"""Prove that the RTL computes what the graph computes: codes of every named edge, cycles of every sample.

What is compared with what: docs/design.md, "Simulation, lint, synthesis, proof".
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch
from torch import Tensor

from emit.design import Design, Edge
from emit.names import Names
from emit.sim import Job, SimResult, flags_for, simulate, simulate_many
from mase.dataflow.schedule import Timing
from mase.doors import json_text
from mase.errors import ConfigError, GraphError
from mase.files import write_atomic
from mase.formats import Code
from mase.graph import Graph
from mase.interpreter import Batch, Values, run
from mase.lowering import Lowering
from mase.netlist import build

BUDGET = 1 << 28  # bytes that the working tensors of one chunk may take
WINDOW = 4096  # most cycles of a waveform before the beat that differs
AFTER = 8  # cycles of a waveform after it


@dataclass(frozen=True)
class EdgeProof:
    """One named edge, and its title as ``path``: elements compared and different; cycles with a beat, held, without."""

    name: str
    path: str
    format: str
    elements: int
    mismatches: int
    beats: int
    stalled: int
    idle: int


@dataclass(frozen=True)
class Element:
    """Give the value of one element: integer code, exponent of its block (None without one), real value."""

    code: int
    exponent: int | None
    real: float

    def __str__(self) -> str:
        return f"code {self.code}{'' if self.exponent is None else f', exponent {self.exponent}'} ({self.real:g})"


@dataclass(frozen=True)
class Difference:
    """The first element that differs: first edge in order of the stream, then lowest sample, then lowest element.

    Args:
        edge, path: name and module path. format: text form. sample: index in the data.
        element: flat index in the sample. index: the same along the axes of the sample.
        expected: by the integer reference. found: in the RTL.
    """

    edge: str
    path: str
    format: str
    sample: int
    element: int
    index: tuple[int, ...]
    expected: Element
    found: Element


@dataclass(frozen=True)
class Pair:
    """Cycles that the schedules predict and those that the simulation counted."""

    predicted: int | float
    simulated: int | float


@dataclass(frozen=True)
class Late:
    """The first sample whose completion is not as predicted, in cycles since its chunk's first input beat.

    Args:
        port: name of the output, the first one that is wrong.
    """

    sample: int
    completion: Pair
    port: str = ""


@dataclass(frozen=True)
class Cycles:
    """Cycles of one output in the first chunk.

    Args:
        port: its name.
    """

    port: str
    first_output: Pair
    latency: Pair
    interval: Pair

    @property
    def equal(self) -> bool:
        """Tell whether the first beat came in the predicted cycle."""
        return self.first_output.predicted == self.first_output.simulated


@dataclass(frozen=True)
class Proof:
    """What a run of samples through reference and RTL showed.

    Args:
        chunk: samples that were streamed without a pause; each chunk starts from reset.
        edges: in order of the stream. first: None where every code is equal.
        first_output, latency, interval: cycles of the first chunk, of the whole: a sample is complete when its last
            output is. late: None where every completion at every output is as predicted.
        outputs: the same of each output, where there are several.
    """

    design: str
    samples: int
    chunk: int
    edges: tuple[EdgeProof, ...]
    first: Difference | None
    first_output: Pair
    latency: Pair
    interval: Pair
    late: Late | None
    outputs: tuple[Cycles, ...] = ()

    @property
    def mismatches(self) -> int:
        """Elements that differ, over all edges."""
        return sum(edge.mismatches for edge in self.edges)

    @property
    def cycles_equal(self) -> bool:
        """Tell whether each sample, and the first output beat, came in the predicted cycle."""
        first = self.first_output.predicted == self.first_output.simulated
        return self.late is None and first and all(found.equal for found in self.outputs)

    @property
    def ok(self) -> bool:
        """Tell whether all codes and all cycles are equal."""
        return self.mismatches == 0 and self.cycles_equal

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {**asdict(self), "mismatches": self.mismatches, "cycles_equal": self.cycles_equal, "ok": self.ok}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Proof:  # JSON
        """Read what :meth:`to_json` gave.

        Raises:
            GraphError: the data is not a proof; the text says which field is missing or wrong.
        """
        names = {f.name for f in fields(cls)}
        return json_text.checked(cls, {k: v for k, v in data.items() if k in names}, "proof", strict=False)


def prove(
    graph: Graph, design: Design, x: Batch, *, chunk: int | None = None, lowering: Lowering | None = None
) -> Proof:
    """Run samples through the integer reference and through the RTL, and compare all codes and all cycles.

    Args:
        x: model inputs ``[samples, ...]``: a tensor, one tensor an input, or tensors by name.
        chunk: samples a simulation, 1 or more; None takes as many as keep the memory bounded.
        lowering: keeps the operators.

    Raises:
        ConfigError: there is no sample. GraphError: the design is not of this graph.
        ToolError: the RTL does not compile, or stops; says who waits on whom.
    """
    inputs = design.unpacked(x)
    samples = min(len(tensor) for tensor in inputs)
    if not samples or (chunk is not None and chunk < 1):
        raise ConfigError(f"verify: found {samples} samples, {chunk} a chunk; allowed is 1 or more of both")
    check_edges(graph, design)
    lowering = lowering or Lowering()
    size = min(chunk or _chunk(design), samples)
    timing = build(graph, lowering).timing(size)
    flags = flags_for(design, samples)
    parts = []
    for start in range(0, max(map(len, inputs)), size):
        part = tuple(tensor[start : start + size] for tensor in inputs)
        expected = run(graph, part, keep=True, lowering=lowering).codes
        parts.append(_part(design, expected, simulate(design, part, flags), timing, start))
    return _joined(design, samples, size, timing, parts)


def explain(proof: Proof) -> str:
    """Return in one paragraph what was shown, or what differs first."""
    elements, d = sum(edge.elements for edge in proof.edges), proof.first
    text = f"{proof.design}: {proof.samples} samples, {elements} codes on {len(proof.edges)} edges, all equal."
    if d is not None:
        text = f"{proof.design}: {proof.mismatches} of {elements} codes differ in {proof.samples} samples. "
        text += f"The first: edge {d.path!r} ({d.format}), sample {d.sample}, element {d.element}: "
        text += f"expected {d.expected}, found {d.found}."
    if proof.cycles_equal:
        return f"{text} Cycles as predicted: latency {proof.latency.simulated}, interval {proof.interval.simulated:g}."
    wrong = next((found for found in proof.outputs if not found.equal), None)
    pair = proof.first_output if wrong is None else wrong.first_output
    what, port = "the first output beat", "" if wrong is None else wrong.port
    if proof.late is not None:
        pair, what, port = proof.late.completion, f"sample {proof.late.sample}", proof.late.port
    what += f" of {port}" if port and proof.outputs else ""
    return f"{text} Cycles differ: {what} is due in cycle {pair.predicted}, and comes in cycle {pair.simulated}."


# -- comparing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What one chunk showed."""

    edges: tuple[EdgeProof, ...]
    first: Difference | None
    timing: Timing
    late: Late | None


def check_edges(graph: Graph, design: Design) -> None:
    """Raise GraphError where the edges of a design are not those of a graph."""
    types = {node.name: node.record.output for node in graph.nodes()}
    for edge in design.edges:
        kind = types.get(edge.name)
        found = None if kind is None else (str(kind.format), kind.shape[1:])
        if found != (str(edge.format), edge.shape):
            has = "no such edge" if found is None else f"{found[0]} {found[1]} there"
            what = f"edge {edge.path!r} is {edge.format} {edge.shape}"
            raise GraphError(f"{design.folder}: {what}; the graph has {has}; emit the graph again")


def _chunk(design: Design) -> int:
    """Return how many samples keep a chunk within the budget: codes become arrays of bits, beats become lists."""
    bits = max(edge.stream.beats * edge.stream.bits for edge in design.edges)
    elements = sum(math.prod(edge.shape) for edge in design.edges)
    beats = sum(edge.stream.beats for edge in design.edges)
    return max(1, BUDGET // (10 * bits + 40 * elements + 200 * beats))


def _part(design: Design, expected: dict[str, Code], result: SimResult, timing: Timing, start: int) -> _Part:
    edges, first = [], None
    for edge in design.edges:
        a, b = expected[edge.name], result.codes[edge.name]
        wrong = _differs(edge, a, b).reshape(b.mantissa.shape[0], -1)
        activity = asdict(result.edges[edge.name])
        title, count = design.titles[edge.name], int(wrong.sum())
        edges.append(EdgeProof(edge.name, title, str(edge.format), wrong.numel(), count, **activity))
        if first is None and count:
            first = _difference(edge, title, a, b, wrong, start)
    late = [
        Late(start + i, Pair(p, s), port.name)
        for port, predicted, found in zip(design.outputs, timing.each, result.cycles.each, strict=True)
        for i, (p, s) in enumerate(zip(predicted.completions, found.completions, strict=False))  # the last may be short
        if p != s
    ]
    return _Part(tuple(edges), first, result.cycles, min(late, key=lambda found: found.sample, default=None))


def _differs(edge: Edge, a: Code, b: Code) -> Tensor:
    """Tell for each element whether its code, or the exponent of its block, differs."""
    wrong = a.mantissa != b.mantissa
    if a.exponent is None or b.exponent is None:
        return wrong
    return wrong | (edge.exponents(a) != edge.exponents(b))


def _difference(edge: Edge, title: str, a: Code, b: Code, wrong: Tensor, start: int) -> Difference:
    sample, element = (int(i) for i in wrong.nonzero()[0])
    index = tuple(int(i) for i in np.unravel_index(element, edge.shape))
    at = (edge.name, title, str(edge.format), start + sample, element, index)
    return Difference(*at, _element(edge, a, sample, index), _element(edge, b, sample, index))


def _element(edge: Edge, code: Code, sample: int, index: tuple[int, ...]) -> Element:
    one = slice(sample, sample + 1)
    only = Code(code.mantissa[one], None if code.exponent is None else code.exponent[one])
    exponent = None
    if code.exponent is not None:
        exponent = int(edge.exponents(only)[(0, *index)])
    return Element(int(code.mantissa[(sample, *index)]), exponent, float(edge.decode(only)[(0, *index)]))


def _joined(design: Design, samples: int, size: int, timing: Timing, parts: Sequence[_Part]) -> Proof:
    order = {edge.name: i for i, edge in enumerate(design.edges)}
    found = [part.first for part in parts if part.first is not None]
    first = min(found, key=lambda d: (order[d.edge], d.sample), default=None)
    late = next((part.late for part in parts if part.late is not None), None)
    edges = tuple(_sum(same) for same in zip(*(part.edges for part in parts), strict=True))
    whole = _cycles(timing, [part.timing for part in parts])
    outputs: tuple[Cycles, ...] = ()
    if timing.outputs:
        each = zip(*(part.timing.outputs for part in parts), strict=True)
        outputs = tuple(
            Cycles(port.name, *_cycles(predicted, found))
            for port, predicted, found in zip(design.outputs, timing.outputs, each, strict=True)
        )
    return Proof(design.top, samples, size, edges, first, *whole, late, outputs)


def _cycles(timing: Timing, seen: Sequence[Timing]) -> tuple[Pair, Pair, Pair]:
    """Return first output, latency and interval; of the first output the first one that is wrong in any chunk."""
    return (
        Pair(timing.first, next((found.first for found in seen if found.first != timing.first), timing.first)),
        Pair(timing.latency, seen[0].latency),
        Pair(_number(timing.interval), _number(seen[0].interval)),
    )


def _sum(parts: Sequence[EdgeProof]) -> EdgeProof:
    counts = ("elements", "mismatches", "beats", "stalled", "idle")
    return replace(parts[0], **{name: sum(getattr(part, name) for part in parts) for name in counts})


def _number(x: Any) -> int | float:  # Any: a Fraction
    return int(x) if x.denominator == 1 else float(x)


# -- for whoever looks for the fault ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A waveform around a difference.

    Args:
        file: VCD of all signals; cycle ``c`` lies at times ``2 c`` (clock low) and ``2 c + 1``.
        start, end: first and last cycle in it. cycle: in which the differing beat moves.
        signal: base name of its stream in the top module, with ``_valid``, ``_ready`` and ``_data``.
    """

    file: Path
    start: int
    end: int
    cycle: int
    signal: str


def window(design: Design, x: Batch, proof: Proof, folder: str | Path) -> Window:
    """Simulate up to the first difference again and write the cycles around it to ``difference.vcd``.

    The waveform begins where the differing sample enters the blocks that give the wrong code, at most 4,096 cycles
    before the wrong beat, and ends a few cycles after it. Without a wrong code it shows the first late sample.

    Args:
        x: the samples that ``proof`` is about.

    Raises:
        ConfigError: ``proof`` found no difference.
    """
    if proof.ok:
        raise ConfigError("verify: nothing differs, so there is no window to write")
    name, sample, element = _place(design, proof)
    start = sample // proof.chunk * proof.chunk
    end = min(start + proof.chunk, sample + 3)  # two samples follow it, as they did
    job = Job(design, design.encode([tensor[start:end] for tensor in design.unpacked(x)]))
    beats = simulate_many([job], window=(0, 0))[0].beats
    edge = next(edge for edge in design.edges if edge.name == name)
    cycle = int(beats[name][sample - start, edge.beat(element)])
    enters = min(int(beats[before][sample - start, 0]) for before in edge.sources or [name])
    span = max(enters, cycle - WINDOW), cycle + AFTER
    made = simulate_many([job], window=span)[0].window
    assert made is not None  # the run reaches the beat that it reached before
    target = Path(folder) / "difference.vcd"
    write_atomic(target, made.read_bytes())
    shutil.rmtree(made.parent)
    return Window(target, *span, cycle, edge.signal)


def _place(design: Design, proof: Proof) -> tuple[str, int, int]:
    """Return edge, sample and element to look at."""
    if proof.first is not None:
        return proof.first.edge, proof.first.sample, proof.first.element
    if proof.late is not None:
        port = next((port for port in design.outputs if port.name == proof.late.port), design.outputs[0])
        return port.edge.name, proof.late.sample, 0
    wrong = [found.port for found in proof.outputs if not found.equal]
    port = next((port for port in design.outputs if port.name in wrong), design.outputs[0])
    return port.edge.name, 0, 0


def dump(values: Values, folder: str | Path) -> Path:
    """Write every tensor of a run as ``.npy`` files: codes, exponents of blocks, real values; return ``index.json``.

    File names are made from node names, legal and unique whatever those are; ``index.json`` says which is which.
    """
    folder, files, entries = Path(folder), Names("t_"), []
    for node in values.graph.nodes():
        if node.name not in values.codes and node.name not in values.reals:
            continue
        fmt = node.record.output.format
        parts = {"real": values.real(node.name)}
        if node.name in values.codes:
            code = values.codes[node.name]
            parts |= {"code": code.mantissa} | ({} if code.exponent is None else {"exponent": code.exponent})
        stem = files[node.name]
        for part, tensor in parts.items():
            write_atomic(folder / f"{stem}.{part}.npy", _npy(tensor))
        entry = {"name": node.name, "path": node.path, "kind": node.kind, "format": None if fmt is None else str(fmt)}
        entries.append({**entry, "files": {part: f"{stem}.{part}.npy" for part in sorted(parts)}})
    index = folder / "index.json"
    write_atomic(index, json.dumps({"schema": 1, "tensors": entries}, indent=1) + "\n")
    return index


def _npy(x: Tensor) -> bytes:
    file = io.BytesIO()
    x = x.float() if x.dtype == torch.bfloat16 else x  # numpy has no bfloat16
    np.save(file, x.detach().cpu().numpy(), allow_pickle=False)
    return file.getvalue()


def junit(proof: Proof, path: str | Path) -> None:
    """Write the proof as JUnit XML, for continuous integration: one test case an edge, and one for the cycles."""
    failures = [_failure(proof, edge) for edge in proof.edges]
    names = [f"{edge.path} ({edge.format})" for edge in proof.edges]
    cases = [*zip(names, failures, strict=True), ("cycles", "" if proof.cycles_equal else explain(proof))]
    failed = sum(1 for _, text in cases if text)
    attributes = {"name": proof.design, "tests": str(len(cases)), "failures": str(failed)}
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", attributes | {"errors": "0", "skipped": "0"})
    for name, text in cases:
        case = ET.SubElement(suite, "testcase", {"classname": f"verify.{proof.design}", "name": _xml(name)})
        if text:
            ET.SubElement(case, "failure", {"message": _xml(text)})
    write_atomic(path, ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _failure(proof: Proof, edge: EdgeProof) -> str:
    if not edge.mismatches:
        return ""
    if proof.first is not None and proof.first.edge == edge.name:
        return explain(proof)
    return f"{edge.mismatches} of {edge.elements} elements differ"


def _xml(text: str) -> str:
    """Replace what XML 1.0 cannot hold even as an entity: most control characters, surrogates."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
