"""Prove emitted designs: scalar oracle, vectorised reference and RTL give the same codes, cycles are as predicted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from emit import certificate, harness
from emit.design import Design
from emit.lint import lint
from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.dataflow.block import LEAST_FIFO
from mase.errors import RtlFault, ToolError
from mase.formats import Code
from mase.graph import Graph
from mase.netlist import Netlist, build

SHARE = 3  # the scalar oracle sees one sample in so many


@dataclass(frozen=True, eq=False)
class Case:
    """A mapped graph, and the codes that it is fed: on its first hardware edge, and on the further ones."""

    name: str
    graph: Graph
    code: Code
    others: tuple[Code, ...] = ()

    @property
    def codes(self) -> tuple[Code, ...]:
        """Codes of each input."""
        return self.code, *self.others


@dataclass(frozen=True)
class Run:
    """One way to run: probabilities of a pause of source and sink, and a reset or a flush in mid-stream."""

    stall_in: float = 0.0
    stall_out: float = 0.0
    seed: int = 1
    restart_at: int = 0
    flush: bool = False


FREE = Run()
STALLED = (Run(0.5, 0.0, 3), Run(0.0, 0.6, 5), Run(0.3, 0.3, 7))
RESTARTED = (Run(restart_at=37), Run(restart_at=53, flush=True), Run(0.2, 0.2, 9, restart_at=91, flush=True))


def rows(code: Code, index: slice) -> Code:
    """Return some samples of codes."""
    return Code(code.mantissa[index], None if code.exponent is None else code.exponent[index])


def joined(codes: Sequence[Code]) -> Code:
    """Return the samples of several codes one after another."""
    blocks = None if codes[0].exponent is None else torch.cat([c.exponent for c in codes if c.exponent is not None])
    return Code(torch.cat([c.mantissa for c in codes]), blocks)


def difference(expected: Code, found: Code) -> str:
    """Say where codes differ first; empty where they do not."""
    parts = (("mantissa", expected.mantissa, found.mantissa), ("exponent", expected.exponent, found.exponent))
    for what, a, b in parts:
        if a is None or b is None:
            if a is not b:
                return f"{what} on one side alone"
        elif a.shape != b.shape:
            return f"{what} of shape {tuple(a.shape)}, found {tuple(b.shape)}"
        elif not torch.equal(a, b):
            where = (a != b).nonzero()[0].tolist()
            return f"{what} {where}: {int(a[tuple(where)])}, found {int(b[tuple(where)])}; {int((a != b).sum())} differ"
    return ""


def check_software(case: Case, netlist: Netlist) -> dict[str, Code]:
    """Assert that the oracle gives what the reference gives on every edge, and return that."""
    expected = netlist.codes(*case.codes)
    few = slice(None, None, SHARE)
    for name, code in netlist.codes(*(rows(code, few) for code in case.codes), oracle=True).items():
        assert not (text := difference(code, rows(expected[name], few))), f"{case.name}, oracle of {name}: {text}"
    return expected


def check_values(case: Case, expected: Mapping[str, Code], result: SimResult, run: Run) -> None:
    """Assert that every named edge of a simulation carried the expected codes."""
    for edge in result.design.edges:
        text = difference(expected[edge.name], result.codes[edge.name])
        assert not text, f"{case.name}, {run}, edge {edge.path} ({edge.format}): {text}"


def check_cycles(case: Case, netlist: Netlist, result: SimResult) -> None:
    """Assert that every sample left by every output in its predicted cycle."""
    timing = netlist.timing(len(result.completions))
    for found, predicted in zip(result.cycles.each, timing.each, strict=True):
        assert found == predicted, f"{case.name}: {found.completions[:5]}, predicted {predicted.completions[:5]}"
    assert result.cycles == timing


def prove(cases: Sequence[Case], folder: Path, others: Sequence[Run] = (*STALLED[2:], *RESTARTED[2:])) -> list[Design]:
    """Emit all cases, run them in one bundle, and assert everything that is promised; return the designs."""
    designs = [emit(case.graph, folder / case.name, case.name) for case in cases]
    check_lint(designs, folder)
    check_certificates(designs)
    netlists = [build(case.graph) for case in cases]
    expected = [check_software(case, netlist) for case, netlist in zip(cases, netlists, strict=True)]
    for run in (FREE, *others):
        for case, want, netlist, result in zip(cases, expected, netlists, run_all(cases, designs, run), strict=True):
            check_values(case, want, result, run)
            if run == FREE:
                check_cycles(case, netlist, result)
    return designs


def check_certificates(designs: Sequence[Design]) -> None:
    """Assert that each design is certified, and that none of its tight FIFOs may lose an entry."""
    for design in designs:
        certificate.check(design.folder)
        facts = json.loads((design.folder / "certificate.json").read_text())
        assert [facts["wires"][i] for i in tight(facts) if not slower(facts, i)] == [], design.top


def tight(facts: Mapping[str, Any]) -> list[int]:
    """Return the wires of a certificate that have as many slots as they need, and more than the least."""
    return [i for i, w in enumerate(facts["wires"]) if LEAST_FIFO < w["capacity"] == w["need"]]


def slower(facts: Mapping[str, Any], index: int) -> str:
    """Say what the checker finds where one wire has one slot less, and all that is said of it agrees."""
    wires = [{**wire, "capacity": wire["capacity"] - (i == index)} for i, wire in enumerate(facts["wires"])]
    return certificate.prove({**facts, "wires": wires}, facts["interval"]["samples"], facts["interval"]["cycles"])


def check_lint(designs: Sequence[Design], folder: Path) -> None:
    """Assert that no parser finds anything in the files of designs, elaborated side by side in one top."""
    top = folder / "bundle.sv"
    top.write_text(harness.bundle(designs))
    files = dict.fromkeys(path.name for design in designs for path in design.sources)
    where = {path.name: path for design in designs for path in design.sources}
    found = [str(f) for f in lint([*(where[name] for name in files), top], "bundle") if f.severity != "absent"]
    found = [text for text in found if "bundle.sv" not in text]
    assert not found, "\n".join(found[:5])


def check_backlog(cases: Sequence[Case], designs: Sequence[Design], index: int) -> None:
    """Assert that one design of a bundle takes as many beats as it says while nobody reads; the others get nothing."""
    design, taken = designs[index], designs[index].manifest["buffers"]["input_beats"]
    times = 1 + max(taken.values()) // len(cases[index].code.mantissa)  # samples have a beat or more
    parts = [
        [joined([code] * times) if i == index else rows(code, slice(0)) for code in case.codes]
        for i, case in enumerate(cases)
    ]
    jobs = [Job(d, tuple(codes), stall_out=1.0 * (d is design)) for d, codes in zip(designs, parts, strict=True)]
    with pytest.raises(RtlFault) as caught:
        simulate_many(jobs)
    for port in design.inputs:
        text = f"; {port.edge.path}: valid/busy after {taken[port.name]} beats;"
        assert text in str(caught.value), f"{taken}: {caught.value}"


def run_all(cases: Sequence[Case], designs: Sequence[Design], run: Run) -> list[SimResult]:
    """Simulate all designs side by side."""
    pairs = zip(cases, designs, strict=True)
    return simulate_many(
        [Job(design, case.codes, **vars(replace(run, seed=run.seed + i))) for i, (case, design) in enumerate(pairs)]
    )


def verdict(case: Case, design: Design, result: SimResult | ToolError) -> str:
    """Say what is wrong with a simulated design: ``values``, ``cycles``, the fault that stopped it, or nothing."""
    if isinstance(result, ToolError):
        return str(result)
    netlist = build(case.graph)
    expected, timing = netlist.codes(*case.codes), netlist.timing(len(case.code.mantissa))
    wrong = [edge.path for edge in design.edges if difference(expected[edge.name], result.codes[edge.name])]
    late = result.cycles != timing
    return f"{'values of ' + ', '.join(wrong) if wrong else ''}{' cycles' if late else ''}".strip()
