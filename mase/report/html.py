"""The report as one HTML page: no script, no request, no file beside it, the same bytes for the same report.

Every text goes through ``text.clean`` and through autoescape; a content security policy in the page forbids scripts and
requests, so that a name which broke out of its place could still do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mase.dataflow.work import named
from mase.files import write_atomic
from mase.report import dataflow, modules, pareto, text
from mase.report.summary import Dataflow, Layer, Report

FLOAT_BITS = 32  # of a parameter in the float model
FIGURES = {  # columns of the layer bars: label -> field of Layer
    "cycles a sample": "cycles",
    "weight bits": "weight_bits",
    "LUT": "resources.lut",
    "FF": "resources.ff",
    "DSP": "resources.dsp",
    "BRAM18": "resources.bram",
}


@dataclass(frozen=True)
class Verdict:
    """What the page says first: a mark, a headline, and the facts behind it."""

    role: Literal["good", "bad", "open"]
    headline: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A predicted figure beside a measured one (None: not measured)."""

    name: str
    predicted: float
    measured: float | None

    @property
    def error(self) -> str:
        """Say how far the prediction is off."""
        return "" if self.measured is None else text.relative(self.predicted, self.measured)

    @property
    def most(self) -> float:
        """The larger of both figures: the full length of their bars."""
        return max(self.predicted, self.measured or 0)


@dataclass(frozen=True)
class Bars:
    """One figure of every layer, and the largest of them."""

    label: str
    values: tuple[float, ...]
    most: float


def render(report: Report) -> str:
    """Return the page."""
    return (
        templates()
        .get_template("report.html")
        .render(
            report=report,
            metric=report.accuracy.metric,
            verdict=verdict(report),
            cycles=cycles(report),
            resources=resources(report),
            bars=bars(report.layers),
            weight_bits=sum(layer.weight_bits for layer in report.layers),
            float_bits=FLOAT_BITS * report.model.parameters,
            axes=list(dict.fromkeys(axis for p in report.search.pareto for axis in p.point)) if report.search else [],
            plot=report.search and pareto.plot(report.search, report.accuracy),
            root=modules.drawn(report.graph),
            draw=lambda module: modules.pictures(module, report.layers),
            standalone=False,
        )
    )


def write(report: Report, path: str | Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        MaseError: the folder is read-only or full.
    """
    write_atomic(path, render(report))


def graph_svg(graph: Dataflow, layers: Sequence[Layer] = (), width: float = dataflow.PAGE) -> str:
    """Return the dataflow graph as an SVG file with its own colours.

    Args:
        layers: what is known of the operators, told by their path; adds lanes, cycles and the bottleneck.
        width: in pixels; a longer chain goes on in the next row.

    Raises:
        GraphError: an edge does not lead from a node to a later one.
    """
    picture = dataflow.wide(graph, layers, width)
    return templates().get_template("dataflow.svg").render(picture=picture, standalone=True)


def verdict(report: Report) -> Verdict:
    """Return what the simulation proved."""
    rtl = report.rtl
    if rtl is None or rtl.samples == 0:
        return Verdict(
            "open", "Not simulated", ("This run did not compare the hardware with the model.", _accuracy(report))
        )
    exact = all(pair.predicted == pair.simulated for pair in (rtl.latency_cycles, rtl.interval_cycles))
    compared = text.number(sum(edge.elements for edge in rtl.edges))
    samples = f"{text.number(rtl.samples)} samples, {len(rtl.edges)} edges"
    facts = [
        f"{text.number(rtl.mismatches)} of {compared} codes differ ({samples})",
        f"predicted cycles {'equal' if exact else 'differ from'} simulated cycles",
        "not linted" if rtl.lint_warnings is None else f"{text.number(rtl.lint_warnings)} lint warnings",
        _accuracy(report),
    ]
    if rtl.mismatches:
        first = next((edge.path for edge in rtl.edges if edge.mismatches), "unknown")
        facts.insert(1, f"the first edge with a difference is {text.short(first)}")
        return Verdict("bad", "The RTL differs from the model", tuple(facts))
    if not exact:
        return Verdict("bad", "Bits are exact, cycles are not", tuple(facts))
    return Verdict("good", "Bit-exact and cycle-exact", tuple(facts))


def _accuracy(report: Report) -> str:
    """Say what was lost on both splits, and on which of them something was promised."""
    found, metric = report.accuracy, report.accuracy.metric
    validation, test = (
        f"{text.score(chosen, metric)} (float {text.score(base, metric)})"
        for chosen, base in ((found.chosen_validation, found.float_validation), (found.chosen, found.float))
    )
    bound = text.score(text.limit(found.float_validation, found.tolerance, metric), metric)
    asked = f", selected by {bound} or better there" if report.search is not None else ""
    return f"{metric} {validation} on the validation split{asked}; {test} on the test split"


def cycles(report: Report) -> tuple[Comparison, ...]:
    """Return the cycles that the schedules promise beside those that the simulation counted."""
    if report.rtl is None:
        return ()
    pairs = {"latency": report.rtl.latency_cycles, "interval": report.rtl.interval_cycles}
    return tuple(Comparison(name, pair.predicted, pair.simulated) for name, pair in pairs.items())


def resources(report: Report) -> tuple[Comparison, ...]:
    """Return the resources of the cost model beside those of synthesis."""
    found = report.resources
    named = {"LUT": found.lut, "FF": found.ff, "DSP": found.dsp, "BRAM18": found.bram}
    named["LUT-eq."] = found.lut_equivalents
    return tuple(Comparison(name, figure.predicted, figure.synthesised) for name, figure in named.items())


def bars(layers: Sequence[Layer]) -> tuple[Bars, ...]:
    """Return the figures of the layers that are not zero everywhere."""
    found = []
    for label, field in FIGURES.items():
        values = tuple(map(attrgetter(field), layers))
        if any(values):
            found.append(Bars(label, values, max(values)))
    return tuple(found)


def _cleaned(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def templates() -> Environment:
    """Return the templates with what they use to write texts and numbers."""
    environment = Environment(
        loader=PackageLoader("mase.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_cleaned,
    )
    numbers = (text.number, text.whole, text.compact, text.seconds, text.share, text.score, text.score_change)
    environment.filters |= {
        function.__name__: function for function in (named, text.short, text.ending, text.shape, *numbers)
    }
    environment.globals |= {"allowed": text.limit, "times": text.TIMES, "height": dataflow.HEIGHT}
    return environment
