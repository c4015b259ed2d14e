import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from mase.errors import GraphError, MaseError
from mase.report import html
from mase.report import text as text_of
from mase.report.summary import Cycles, Dataflow, Edge, Figure, Node, Report, RtlOutput, SearchPoint
from tests.report.example import HOSTILE, example
from tests.report.large import layers as large

VOID = {"meta", "link", "br"}
LIMIT = 1 << 20  # bytes: what any mail server takes
NASTY = (
    HOSTILE,
    "\"><svg onload=alert(1)>'",
    "--></style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "\u202eesrever \u2066isolate \x00\x1b[31m \ud800",
    "طبقة שכבה 层 😀",
    "x" * 300,
    "a.b." * 75,
    "'",
    "",
    " \n\t ",
)


class Page(HTMLParser):
    """Collect tags, attributes and text, and check that every element is closed where it was opened."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data + " "


def words(page: str) -> str:
    return " ".join(Page(page).text.split())


def outputs() -> tuple[RtlOutput, ...]:
    """Return two outputs, of which the first is scored."""
    cycles = Cycles(70, 70), Cycles(182, 182), Cycles(64, 64.0)
    return (
        RtlOutput("logits", "logits", "6", "int8", (10,), *cycles, scored=True),
        RtlOutput("out_bound", "bound", "7", "fixed8.4", (3, 4), *cycles, scored=False),
    )


def named(text: str) -> Report:
    """Return the example with one text in every place that a model, a configuration or a tool can fill."""
    report = example()
    assert report.rtl is not None
    assert report.search is not None
    points = tuple(replace(p, point={text: text, f"{text}2": text}) for p in report.search.points)
    layers = tuple(
        replace(
            layer, path=text, kind=text, weight_format=text, input_format=text, output_format=text, accumulation=text
        )
        for layer in report.layers
    )
    return replace(
        report,
        name=text,
        model=replace(report.model, name=text),
        data=replace(report.data, name=text),
        accuracy=replace(report.accuracy, metric=text),
        resources=replace(report.resources, target=text, synthesised_by=text or None),
        search=replace(report.search, strategy=text, points=points, pareto=points[2:5]),
        layers=layers,
        graph=Dataflow((Node("a", text, text), Node("b", text, text)), (Edge("a", "b", (1,), text),)),
        seconds={text: 1.0, "search": 2.0},
        versions={text: text, "verilator": text},
        reproduce=replace(report.reproduce, command=text, config=text),
        rtl=replace(
            report.rtl,
            edges=tuple(replace(e, path=text, format=text) for e in report.rtl.edges),
            outputs=tuple(replace(o, port=text, tensor=text, edge=text, format=text) for o in outputs()),
        ),
        warnings=(text, text),
    )


def test_several_outputs_are_told_apart() -> None:
    report = example()
    assert report.rtl is not None
    assert "Outputs:" not in words(html.render(report))
    found = words(html.render(replace(report, rtl=replace(report.rtl, outputs=outputs()))))
    assert "Outputs: 2" in found
    assert "logits logits 6 int8 10 70 182 64 accuracy" in found
    assert "bound out_bound 7 fixed8.4 3\N{MULTIPLICATION SIGN}4 70 182 64 \N{EN DASH}" in found
    late = replace(outputs()[1], latency_cycles=Cycles(182, 190))
    page = html.render(replace(report, rtl=replace(report.rtl, outputs=(outputs()[0], late))))
    assert "190 (predicted 182)" in words(page)
    assert page.count('<tr class="wrong">') == 1


def test_decibels_are_written_as_such() -> None:
    report = example()
    score = replace(
        report.accuracy, metric="snr", float=12.5, chosen=12.25, float_validation=12.0, chosen_validation=11.9
    )
    found = words(html.render(replace(report, accuracy=replace(score, tolerance=0.5), search=None)))
    assert "test snr 12.25 dB float 12.50 dB, \N{MINUS SIGN}0.25 dB" in found
    assert "snr 11.90 dB (float 12.00 dB) on the validation split" in found
    assert "%" not in found.split("Predicted against measured")[0].split("validation split")[0]


def test_page_says_what_the_run_found() -> None:
    found = words(html.render(example()))
    for text in (
        "Bit-exact and cycle-exact",
        "0 of 61,200 codes differ (360 samples, 4 edges)",
        "predicted cycles equal simulated cycles",
        "test accuracy 96.94 %",
        "float 97.50 %, \N{MINUS SIGN}0.56 points",
        "8 trials by tpe in 3.25 s; 3 on the front",
        "LUT 5,210 5,034 +3.5 %",
        "BRAM18 3 4 \N{MINUS SIGN}25.0 %",
        "latency 182 182 exact",
        "Verilator 5.48",
        "Synthesised: yosys 0.60, without place and route",
        "96.22 % or better was required",
        "bottleneck",
        "∞ dB",
        "31.5 dB",
        "synthesise 21.0 s",
        "wall time, 35.2 s in all",
        "mase run configs/quickstart.yaml",
        "Seed 1.",
        "torch 2.13.0",
        "1 warning",
    ):
        assert text in found, text


def test_page_is_the_same_for_the_same_report() -> None:
    assert html.render(example()) == html.render(example())


def test_page_asks_for_nothing_and_runs_nothing() -> None:
    page = Page(html.render(example()))
    assert not {"script", "iframe", "object", "embed", "img", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "action")]
    assert [value for name, value in page.attributes if name in ("href", "xlink:href")] == ["data:,"]
    assert not re.search(r"url\(|@import|@font-face", html.render(example()))
    (policy,) = [value for _, value in page.attributes if value.startswith("default-src")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize("text", NASTY)
def test_no_text_leaves_its_place(text: str) -> None:
    plain, nasty = Page(html.render(named("plain"))), Page(html.render(named(text)))
    if text:  # an empty one is not a format, so there is less to draw
        assert nasty.tags == plain.tags
        assert [name for name, _ in nasty.attributes] == [name for name, _ in plain.attributes]
    assert text_of.short(text, 80) in " ".join(nasty.text.split())
    html.render(named(text)).encode()


def test_hostile_names_are_still_readable() -> None:
    page = html.render(example())
    assert HOSTILE not in page
    assert HOSTILE in Page(page).text


def test_long_names_are_shortened_but_told_in_full() -> None:
    page = html.render(replace(example(), name="x" * 300))
    assert max(map(len, re.findall("x+", Page(page).text))) < 60
    assert "x" * 300 in page


def test_marks_that_turn_text_around_are_written_out() -> None:
    page = html.render(replace(example(), name="safe\u202egnp.exe\x00"))
    assert r"safe\u202egnp.exe\u0000" in Page(page).text
    assert "\u202e" not in page
    assert "\x00" not in page


def test_differing_codes_are_said_first_and_where() -> None:
    report = example()
    assert report.rtl is not None
    edges = (report.rtl.edges[0], replace(report.rtl.edges[1], mismatches=5), *report.rtl.edges[2:])
    verdict = html.verdict(replace(report, rtl=replace(report.rtl, mismatches=5, edges=edges)))
    assert (verdict.role, verdict.headline) == ("bad", "The RTL differs from the model")
    assert verdict.facts[:2] == (
        "5 of 61,200 codes differ (360 samples, 4 edges)",
        "the first edge with a difference is 2",
    )


def test_differing_cycles_are_no_success() -> None:
    report = example()
    assert report.rtl is not None
    slower = replace(report, rtl=replace(report.rtl, interval_cycles=Cycles(64, 65)))
    verdict = html.verdict(slower)
    assert (verdict.role, verdict.headline) == ("bad", "Bits are exact, cycles are not")
    assert "predicted cycles differ from simulated cycles" in verdict.facts
    assert "predicted 64" in words(html.render(slower))


def test_the_verdict_gives_both_splits_and_says_which_the_tolerance_is_of() -> None:
    report = example()
    a = report.accuracy
    told = replace(a, float=0.97, chosen=0.95, float_validation=0.98, chosen_validation=0.975, tolerance=0.01)
    fact = html.verdict(replace(report, accuracy=told)).facts[-1]
    assert "97.50 % (float 98.00 %) on the validation split, selected by 97.00 % or better there" in fact
    assert "95.00 % (float 97.00 %) on the test split" in fact


def test_nothing_simulated_is_no_success() -> None:
    report = example()
    assert report.rtl is not None
    for rtl in (None, replace(report.rtl, samples=0)):
        assert html.verdict(replace(report, rtl=rtl)).role == "open"
    found = words(html.render(replace(report, rtl=None)))
    assert "Not simulated" in found
    assert "exact and cycle" not in found
    assert "Streams in simulation" not in found


def test_what_did_not_run_is_named_and_not_invented() -> None:
    report = example()
    figures = {name: Figure(getattr(report.resources, name).predicted) for name in ("lut", "ff", "dsp", "bram")}
    figures["lut_equivalents"] = Figure(6110)
    area = replace(report.resources, synthesised_by=None, **figures)
    found = words(html.render(replace(report, search=None, resources=area, warnings=(), layers=())))
    assert "Synthesised: not run" in found
    assert "LUT 5,210 estimate, not synthesised" in found
    assert "5,034" not in found
    assert not re.search("Search|The front|1 warning|All figures", found)
    assert "not linted" in words(html.render(replace(report, rtl=replace(report.rtl, lint_warnings=None))))


def test_each_layer_has_its_bars_and_the_slowest_is_marked() -> None:
    cycles, *others = html.bars(example().layers)
    assert (cycles.label, cycles.values, cycles.most) == ("cycles a sample", (64, 32, 40, 10), 64)
    assert [bars.label for bars in others] == ["weight bits", "LUT", "FF", "BRAM18"]  # no layer has a DSP
    page = html.render(example())
    assert page.count('<span class="bar hot" style="width:100.00%">') == 1
    assert page.count('<span class="tag">bottleneck</span>') == 1


def test_infinite_and_missing_figures_are_shown_as_such() -> None:
    report = example()
    layers = tuple(
        replace(layer, snr_db=snr) for layer, snr in zip(report.layers, (math.inf, -math.inf, None, 3.0), strict=True)
    )
    found = words(html.render(replace(report, layers=layers)))
    assert "∞ dB" in found
    assert "\N{MINUS SIGN}∞ dB" in found


def test_thousands_of_trials_still_fit_a_mail() -> None:
    report = example()
    assert report.search is not None
    formats = {f"model.layers.{i}.weight": "mxint4b16e3" for i in range(24)}
    points = tuple(SearchPoint(i, 0.5 + i % 97 / 200, 1000.0 + i, 4.0, 64, True, formats) for i in range(5000))
    search = replace(report.search, points=points, pareto=points[:30], trials=5000)
    page = html.render(replace(report, search=search))
    assert len(page.encode()) < LIMIT
    assert "left out of this plot" in page
    assert len(html.render(example()).encode()) < LIMIT / 10


def test_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    html.write(example(), path)
    assert path.read_text(encoding="utf-8") == html.render(example())
    (tmp_path / "file").write_text("")
    with pytest.raises(MaseError, match="cannot write"):
        html.write(example(), tmp_path / "file" / "report.html")


def test_graph_is_an_svg_file_of_its_own() -> None:
    report = example()
    for layers in ((), report.layers):
        svg = ET.fromstring(html.graph_svg(report.graph, layers))
        space = "{http://www.w3.org/2000/svg}"
        assert svg.tag == f"{space}svg"
        titles = [element.text for element in svg.iter(f"{space}title")]
        assert "fc1: linear" in titles
        assert f"{HOSTILE}: linear" in titles
        assert svg.find(f"{space}style") is not None
        assert not list(svg.iter(f"{space}script"))


@pytest.mark.parametrize("text", NASTY)
def test_graph_with_any_name_is_xml(text: str) -> None:
    graph = Dataflow((Node("a", text, text), Node("b", text, "linear")), (Edge("a", "b", (1,), text or None),))
    plain = Dataflow((Node("a", "x", "x"), Node("b", "x", "linear")), (Edge("a", "b", (1,), "x"),))
    tags = [[element.tag for element in ET.fromstring(html.graph_svg(g)).iter()] for g in (graph, plain)]
    assert tags[0] == tags[1]


def test_graph_that_is_none_is_refused() -> None:
    with pytest.raises(GraphError, match="does not lead to a later node"):
        html.graph_svg(Dataflow((Node("a", "a", "input"),), (Edge("a", "b", (), None),)))


def test_branching_graph_goes_into_the_page() -> None:
    nodes = tuple(Node(name, name, "add") for name in "abc")
    edges = (Edge("a", "b", (4,), "int8"), Edge("a", "c", (4,), "int8"), Edge("b", "c", (4,), None))
    page = html.render(replace(example(), graph=Dataflow(nodes, edges)))
    assert page.count('class="arrow"') == 2 * len(edges)  # drawn across and down


def test_large_graph_opens_module_by_module_and_shows_its_layers() -> None:
    graph, layer = large(12), example().layers[0]
    page = html.render(replace(example(), graph=graph, layers=(replace(layer, path="l.0.norm", cycles=4321),)))
    assert '<details class="module">' in page
    assert page.count("4,321 cycles") == 2  # in the picture of its module, wide and tall


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb``. Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, two: str) -> float:
    low, high = sorted((luminance(one), luminance(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme: str) -> None:
    css = resources.files("mase.report").joinpath("templates/colours.css").read_text()
    light, dark = css.split("@media")
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", {"light": light, "dark": dark}[scheme]))
    texts = [("ink", s) for s in ("page", "card", "good-soft", "bad-soft", "warn-soft", "open-soft")]
    texts += [("muted", "page"), ("muted", "card"), ("good", "good-soft"), ("bad", "bad-soft"), ("warn", "warn-soft")]
    texts += [(name, "card") for name in ("accent", "good", "bad", "warn", "hot")]
    for text, surface in texts:
        assert contrast(colours[text], colours[surface]) >= 4.5, (text, surface)  # WCAG 2.2, 1.4.3
    for mark in ("edge", "accent", "hot", "bar"):
        bound = 2.5 if mark == "bar" else 3.0  # WCAG 2.2, 1.4.11; a bar has its figure beside it
        assert contrast(colours[mark], colours["card"]) >= bound, mark
