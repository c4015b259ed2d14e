from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mase.frontend.module import trace_module
from mase.frontend.report import TraceReport
from mase.graph import Graph
from mase.models.base import build
from mase.report import trace
from mase.report.modules import WHOLE
from mase.report.summary import Dataflow
from mase.report.trace import Traced
from passes.base import PASSES
from tests.report.example import HOSTILE

NASTY = [HOSTILE, "</details><b>", "x" * 300, "\u202egnp", "a\x00b", "", "#m-0", "'\"&"]


def traced(name: str = "lenet", *, options: dict[str, object] | None = None) -> Traced:
    x = torch.zeros(2, 12, dtype=torch.int64) if name == "llama" else torch.zeros(2, 1, 28, 28)
    graph, report = trace_module(build(name, options or {}).eval(), (x,))
    return assembled(name, graph, report)


def assembled(name: str, graph: Graph, report: TraceReport) -> Traced:
    found = {p: PASSES[p](graph)[1].to_json() for p in ("shapes", "flops", "parameters", "liveness")}
    return trace.assemble(name, graph, report, found)


def test_rows_join_what_the_passes_found() -> None:
    found = traced()
    rows = {row.path: row for row in found.rows}
    model = build("lenet", {})
    first = next(path for path, module in model.named_modules() if isinstance(module, torch.nn.Conv2d))
    conv = rows[first]
    assert (conv.kind, conv.bytes) == ("conv", 4 * conv.parameters)
    assert conv.parameters == sum(p.numel() for p in model.get_submodule(first).parameters())
    assert conv.live > 0
    assert found.totals["parameters"] == sum(p.numel() for p in model.parameters())
    assert len(found.rows) == len(found.graph.nodes) - 1  # all but the output


def test_opaque_nodes_are_unknown_in_rows_and_told_with_their_reason() -> None:
    model = torch.nn.Sequential(torch.nn.RNNCell(4, 3), torch.nn.ReLU()).eval()
    graph, report = trace_module(model, (torch.zeros(2, 4),))
    found = assembled("rnn", graph, report)
    assert {row.path: row.macs for row in found.rows}["0"] is None
    assert (list(found.opaque), found.unknown) == (["0"], ())  # named once
    assert "? MACs" in trace.render(found)


def test_page_of_a_small_model_is_one_picture_and_one_table() -> None:
    page = trace.render(traced())
    assert page.count("<svg xmlns") == 2  # wide and tall
    assert 'class="module"' not in page
    assert "<details open>" in page


def test_page_of_a_large_model_opens_module_by_module() -> None:
    found = traced("llama", options={"layers": 3})
    page = trace.render(found)
    assert len(found.graph.nodes) > WHOLE
    assert "2 more alike: blocks.1 … blocks.2" in page
    assert page.count('<details class="module">') == len(re.findall(r'<div id="m[-\d]+">', page)) >= 4
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert targets
    assert targets <= set(re.findall(r'id="([^"]+)"', page))


def test_page_has_no_script_and_a_policy_against_them() -> None:
    page = trace.render(traced("llama"))
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []


@pytest.mark.parametrize("text", NASTY)
def test_a_name_cannot_leave_its_place(text: str) -> None:
    found = traced("llama", options={"layers": 2})

    def tags(name: str, last: str) -> list[str]:
        nodes = (replace(node, path=f"{node.path.rpartition('.')[0]}.{last}", kind=last) for node in found.graph.nodes)
        changed = replace(
            found,
            name=name,
            graph=Dataflow(tuple(nodes), found.graph.edges),
            rows=tuple(replace(row, path=last, kind=last) for row in found.rows),
            opaque={last: last},
            notes=(last,),
        )
        return re.findall(r"<(/?\w+)", trace.render(changed))

    assert "." not in text  # which would lead to another module
    assert tags(text, text) == tags("x", "x")


def test_picture_is_an_svg_file_of_its_own(tmp_path: Path) -> None:
    small = traced()
    assert trace.write_svg(small.graph, tmp_path / "graph.svg") is False
    drawn = ET.parse(tmp_path / "graph.svg").getroot()
    titles = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert all(f"{node.path}: {node.kind}" in titles for node in small.graph.nodes)


def test_a_picture_of_too_many_nodes_shows_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST", 20)
    assert trace.write_svg(traced("llama").graph, tmp_path / "graph.svg") is True
    text = (tmp_path / "graph.svg").read_text(encoding="utf-8")
    assert text.count('class="box"') <= 20
    assert "module of" in text


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert trace.render(traced("llama")) == trace.render(traced("llama"))
