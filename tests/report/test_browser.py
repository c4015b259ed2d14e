"""The report in a real browser: what it looks like to whom, and that nobody is asked for anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mase.report import html, trace
from mase.report.summary import Cycles, Dataflow, Edge, Node, Report, RtlOutput
from tests.report.browser import NO_BROWSER, Browser, browser, find_browser
from tests.report.example import example
from tests.report.large import page as traced_page

FOUND = find_browser()
WIDTHS = (400, 1280)  # pixels: a phone, a laptop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(FOUND is None, reason=NO_BROWSER),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    assert FOUND is not None
    with browser(FOUND) as opened:
        yield opened


def long_names() -> Report:
    """Return the example with names of 300 characters, which nothing can break, and a graph that branches."""
    report, name = example(), "x" * 300
    nodes = tuple(Node(f"n{i}", f"{name}.{i}", "linear") for i in range(9))
    pairs = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (1, 7), (2, 4), (0, 8))
    graph = Dataflow(nodes, tuple(Edge(f"n{a}", f"n{b}", (4096, 4096), name) for a, b in pairs))
    layers = tuple(replace(layer, path=f"{name}.{i}", input_format=name) for i, layer in enumerate(report.layers))
    cycles = Cycles(123456, 123456), Cycles(123456, 123457), Cycles(64, 64)
    assert report.rtl is not None
    rtl = replace(
        report.rtl, outputs=tuple(RtlOutput(name, name, name, name, (99,) * 5, *cycles, s) for s in (True, False))
    )
    return replace(report, name=name, layers=layers, graph=graph, rtl=rtl, warnings=(name,))


REPORTS = {
    "example": example(),
    "long names": long_names(),
    "bare": replace(example(), rtl=None, search=None, layers=(), graph=Dataflow((), ()), warnings=()),
}


@pytest.fixture(params=REPORTS)
def report_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    html.write(REPORTS[request.param], tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.fixture
def example_file(tmp_path: Path) -> Path:
    html.write(example(), tmp_path / "report.html")
    return tmp_path / "report.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_loads_without_a_complaint_or_a_request(page: Browser, report_file: Path, width: int, dark: bool) -> None:
    page.open(report_file, width, dark=dark)
    assert page.evaluate("document.querySelectorAll('main > section').length") >= 5
    assert page.complaints() == []
    assert page.requests() == [report_file.as_uri()]


def test_complaints_and_requests_would_be_seen(page: Browser, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><img src='nothing.png'><script>console.error('seen')</script>")
    page.open(broken, 400)
    assert any("seen" in complaint for complaint in page.complaints())
    assert page.requests() == [broken.as_uri(), (tmp_path / "nothing.png").as_uri()]


def test_policy_of_the_page_stops_scripts_and_requests(page: Browser, example_file: Path) -> None:
    text = example_file.read_text(encoding="utf-8")
    attack = (
        "<script>document.title = 1</script><img src=nothing.png onerror='document.title = 2'><i id=end></i></main>"
    )
    example_file.write_text(text.replace("</main>", attack), encoding="utf-8")
    page.open(example_file, 400)
    assert page.evaluate("document.getElementById('end') !== null")
    assert page.evaluate("document.title").startswith("quickstart")
    complaints = " ".join(page.complaints())
    assert all(part in complaints for part in ("script-src", "img-src"))


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_as_wide_as_the_window(page: Browser, report_file: Path, width: int) -> None:
    page.open(report_file, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    free = page.seen("main > *, .scroll, .card > :not(.scroll), .verdict *, .tile *, .plot svg, .row *, .warnings *")
    assert len(free) > 30
    assert [element["text"][:40] for element in free if element["right"] > width] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_plot_graph_and_tables_are_there_without_scripts(page: Browser, example_file: Path, width: int) -> None:
    page.open(example_file, width, script=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)  # for our own questions
    drawn = {".plot .mark": 8, ".flow": 1, ".flow .box": 6, ".layers .who": 4, "table": 7}
    assert {selector: len(page.seen(selector)) for selector in drawn} == drawn


@pytest.mark.parametrize("width", WIDTHS)
def test_pointing_at_a_trial_shows_it_inside_the_window(page: Browser, example_file: Path, width: int) -> None:
    page.open(example_file, width)
    page.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    labels = page.evaluate("[...document.querySelectorAll('.plot .mark')].map(mark => mark.ariaLabel)")
    assert len(labels) == 8
    for label, mark in zip(labels, page.seen(".plot .mark"), strict=True):
        page.move((mark["left"] + mark["right"]) / 2, (mark["top"] + mark["bottom"]) / 2)
        (tip,) = page.seen(".tip")
        assert tip["text"].startswith(label.partition(",")[0])  # trial 3
        assert "LUT-eq." in tip["text"]
        assert "fixed8.4" in tip["text"]
        assert 0 <= tip["left"] < tip["right"] <= width
        assert 0 <= tip["top"] < tip["bottom"] <= 900
    page.move(1, 1)
    assert page.seen(".tip") == []


def test_keyboard_reaches_the_front(page: Browser, example_file: Path) -> None:
    page.open(example_file, 1280)
    seen = []
    for _ in range(3):
        page.key("Tab", 9)
        seen += [tip["text"].split("\n")[0] for tip in page.seen(".tip")]
    assert seen == ["trial 2 · on the front", "trial 7 · on the front", "trial 4 · chosen · on the front"]


def test_tapping_a_trial_shows_it(page: Browser, example_file: Path) -> None:
    page.open(example_file, 400)
    page.evaluate("document.querySelector('.plot').scrollIntoView({block: 'center'})")
    mark = page.seen(".plot .mark.front")[0]
    at = [{"x": mark["left"] + 5, "y": mark["top"] + 5}]
    page.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=at)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.wait_until("[...document.querySelectorAll('.tip')].some(e => e.getClientRects().length)")
    assert page.seen(".tip")[0]["text"].startswith("trial 2")


@pytest.mark.parametrize("width", WIDTHS)
def test_graph_can_be_read(page: Browser, report_file: Path, width: int) -> None:
    page.open(report_file, width)
    boxes = page.seen(".flow .box")
    for text in page.seen(".flow .title, .flow .small"):
        assert any(b["left"] <= text["left"] and text["right"] <= b["right"] + 1 for b in boxes), text
        assert text["bottom"] - text["top"] >= 10, text


def test_graph_file_draws_alone(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / "graph.svg"
    path.write_text(html.graph_svg(example().graph, example().layers), encoding="utf-8")
    fill = "getComputedStyle(document.querySelector('.box')).fill"
    page.open(path, 1280)
    light = page.evaluate(fill)
    assert page.complaints() == []
    page.open(path, 1280, dark=True)
    assert (light, page.evaluate(fill)) == ("rgb(255, 255, 255)", "rgb(23, 30, 39)")


# -- the page of a trace ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 8], ids=["small", "large"])
def trace_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    trace.write(traced_page(request.param * 3, "x" * 300), tmp_path / "trace.html")
    return tmp_path / "trace.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_trace_is_as_wide_as_the_window_closed_and_open(
    page: Browser, trace_file: Path, width: int, dark: bool
) -> None:
    page.open(trace_file, width, dark=dark)
    assert (page.complaints(), page.requests()) == ([], [trace_file.as_uri()])
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert [e["text"][:40] for e in page.seen("main > *, .scroll, .card > *, .tile *") if e["right"] > width] == []
        boxes = page.seen(".flow .box")
        assert boxes
        for text in page.seen(".flow .title, .flow .small"):
            assert any(b["left"] <= text["left"] and text["right"] <= b["right"] + 1 for b in boxes), text
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_box_of_a_module_opens_it_without_scripts(page: Browser, tmp_path: Path, width: int) -> None:
    trace.write(traced_page(12), tmp_path / "trace.html")
    page.open(tmp_path / "trace.html", width, script=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)  # for our own questions
    seen = (
        "[...document.querySelectorAll('.flow a')].find(link => link.checkVisibility() && link.getClientRects().length)"
    )
    page.evaluate(f"{seen}.scrollIntoView({{block: 'center'}})")
    assert not page.evaluate("document.querySelector('details.module').open")
    place = page.evaluate(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({seen}.getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
    page.wait_until("document.querySelector('details.module').open")
