"""Run drawn graphs from trace to RTL, and compare: codes of every wire, cycles of every sample, the certificate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from emit import certificate
from emit.compare import judge, tap
from emit.design import Design
from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.dataflow.circuit import Pin
from mase.dataflow.schedule import Timing
from mase.errors import ToolError
from mase.formats import Code
from mase.netlist import Netlist, build
from tests.emit.proof import Case, difference, rows
from tests.fuzz.recipe import Recipe

PER_BUILD = 12  # graphs in one compiled model
ORACLE = 5  # every so many samples also go through the oracle


@dataclass(frozen=True, eq=False)
class Ready:
    """A graph that agrees in software and is emitted, with the cycles that are predicted for its samples."""

    recipe: Recipe
    case: Case
    netlist: Netlist
    design: Design
    due: Timing


def software(recipe: Recipe, title: str) -> tuple[Case, Netlist]:
    """Make a graph, and assert that interpreter, reference, oracle and blocks agree on every edge."""
    case = recipe.case(title)
    netlist = build(case.graph)
    expected = netlist.codes(*case.codes)
    few = slice(None, None, ORACLE)
    for name, code in netlist.codes(*(rows(code, few) for code in case.codes), oracle=True).items():
        assert not (text := difference(code, rows(expected[name], few))), f"oracle of {name}: {text}"
    given = codes(netlist, case.codes)
    for name, pin in netlist.named.items():
        stream = netlist.stream(name)
        text = difference(stream.unpack(stream.pack(expected[name])), given[pin])
        assert not text, f"blocks of {name}: {text}"
    return case, netlist


def ready(recipe: Recipe, title: str, folder: Path) -> Ready:
    """Make and emit a graph; assert what can be asserted without a simulation."""
    case, netlist = software(recipe, title)
    design = emit(case.graph, folder / title, title)
    certificate.check(design.folder)
    facts = json.loads((design.folder / "certificate.json").read_text())
    kept = Fraction(facts["interval"]["cycles"], facts["interval"]["samples"])
    assert kept == netlist.interval(), f"certified interval {kept}; with deep FIFOs it is {netlist.interval()}"
    return Ready(recipe, case, netlist, tap(netlist, design), netlist.timing(len(case.codes[0].mantissa)))


def wrong(item: Ready, result: SimResult, free: bool) -> str:
    """Say what a simulation shows that it should not: a wire, or a cycle where nothing was stalled; else nothing."""
    found = judge(item.netlist, item.case.codes, result)
    if not found.ok:
        return str(found)
    due = item.due
    if not free or result.cycles == due:
        return ""
    return f"cycles {result.first_output}, {result.completions[:3]}, predicted {due.first}, {due.completions[:3]}"


def simulated(items: Sequence[Ready]) -> list[str]:
    """Run graphs in one build, freely and stalled, and say for each what is wrong."""
    found = [""] * len(items)
    for free in (True, False):
        jobs = [
            Job(item.design, item.case.codes, *((0.0, 0.0) if free else item.recipe.stalls), seed=i + 1)
            for i, item in enumerate(items)
        ]
        for i, result in enumerate(_each(jobs)):
            found[i] = found[i] or (str(result) if isinstance(result, ToolError) else wrong(items[i], result, free))
    return found


def _each(jobs: Sequence[Job]) -> list[SimResult | ToolError]:
    """Return what each job does; one that stops does not hide the others."""
    try:
        return list(simulate_many(jobs))
    except ToolError:
        pass
    out: list[SimResult | ToolError] = []
    for i in range(len(jobs)):
        alone = [
            job if i == k else replace(job, codes=tuple(rows(code, slice(0)) for code in job.codes))
            for k, job in enumerate(jobs)
        ]
        try:
            out.append(simulate_many(alone)[i])
        except ToolError as error:
            out.append(error)
    return out


def failures(
    recipes: Mapping[str, Recipe], folder: Path, told: Callable[[str], object] = lambda text: None
) -> dict[str, str]:
    """Return what is wrong with each graph that has something wrong.

    Args:
        told: gets a line of progress after each build.
    """
    found: dict[str, str] = {}
    items: dict[str, Ready] = {}
    for title, recipe in recipes.items():
        try:
            items[title] = ready(recipe, title, folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, this graph shows it
            found[title] = f"{type(error).__name__}: {error}"
    names = list(items)
    for start in range(0, len(names), PER_BUILD):
        group = names[start : start + PER_BUILD]
        texts = simulated([items[name] for name in group])
        found |= {name: text for name, text in zip(group, texts, strict=True) if text}
        told(f"{start + len(group)} of {len(names)} graphs simulated, {len(found)} failures")
    return found


def codes(netlist: Netlist, fed: Sequence[Code]) -> dict[Pin, Code]:
    """Return what the blocks give on every wire."""
    streams = [netlist.stream(name) for name in netlist.entries]
    return netlist.circuit.run(*(s.unpack(s.pack(code)) for s, code in zip(streams, fed, strict=True)))
