from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emit.design import Design
from emit.verify import (
    Difference,
    EdgeProof,
    Element,
    Late,
    Pair,
    Proof,
    dump,
    explain,
    junit,
    prove,
    window,
)
from emit.verilog import emit
from mase.errors import ConfigError, FormatError, GraphError
from mase.frontend.module import trace_module
from mase.graph import Graph, OpNode
from mase.interpreter import run
from mase.lowering import Item, Key, Lowering, Value
from mase.ops.base import Arithmetic
from mase.ops.linear import Linear
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize

HOSTILE = '../"&<x>\x00\x1b]]>é\ud800 endmodule'
FOLDING = {"1": Folding(2, 4), "3": Folding(4, 4)}


@dataclass(frozen=True)
class Case:
    graph: Graph
    x: Tensor
    folder: Path


def traced() -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(20, 2, 3)
    return fuse(trace_module(model, (x,))[0])[0], x


def mapped(fmt: str = "mxint6b4e4", folding: dict[str, Folding] | None = None) -> tuple[Graph, Tensor]:
    graph, x = traced()
    config = QuantizeConfig(NodeFormats(weight=fmt, activation=fmt, accumulation="auto"))
    graph, _ = quantize.run(graph, config, [x])
    return map_graph(graph, MapConfig(folding=folding or FOLDING))[0], x


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    graph, x = mapped()
    folder = tmp_path_factory.mktemp("design")
    emit(graph, folder, "tiny")
    return Case(graph, x, folder)


@pytest.fixture
def copy(case: Case, tmp_path: Path) -> Path:
    return shutil.copytree(case.folder, tmp_path / "copy")


def tampered_memory(folder: Path) -> Design:
    """Change the weight from input 0 to output 4: the one output of the second group, in its first word."""
    memory = folder / "mem" / "mase_tiny__1_weight.mem"
    words = memory.read_text().split()
    words[3] = f"{int(words[3], 16) ^ 0x10:0{len(words[3])}x}"
    memory.write_text("\n".join(words) + "\n")
    return Design.load(folder)


class Tampered(Lowering):
    """Build a first operator that has that weight, so that the reference says what the RTL must now give."""

    def op(self, node: OpNode, own: Key, value: Callable[[Item], Value]) -> Arithmetic:
        op = super().op(node, own, value)
        if node.name != "_1":
            return op
        assert isinstance(op, Linear)
        weight = op.weight.clone()
        changed = (int(weight[4, 0]) & 63) ^ 0x10
        weight[4, 0] = changed - 64 if changed >= 32 else changed
        return replace(op, weight=weight)


def proof(**change: object) -> Proof:
    """Return a proof made by hand, where nothing differs."""
    edges = tuple(
        EdgeProof(name, path, "fixed4.2", 8, 0, 8, 0, 1) for name, path in (("a", "0"), ("b", f"1.{HOSTILE}"))
    )
    good = Proof("mase_top", 2, 2, edges, None, Pair(3, 3), Pair(4, 4), Pair(2, 2.5), None)
    return replace(good, **change)  # type: ignore[arg-type]


def failed() -> Proof:
    good = proof()
    edge = replace(good.edges[1], mismatches=3)
    first = Difference("b", edge.path, "fixed4.2", 1, 5, (5,), Element(-2, None, -0.5), Element(7, None, 1.75))
    return replace(good, edges=(good.edges[0], edge), first=first)


# -- the whole way, through the simulator ------------------------------------------------------------------------------


@pytest.mark.sim
def test_a_good_design_proves(case: Case) -> None:
    found = prove(case.graph, Design.load(case.folder), case.x)
    assert found.ok
    assert [(e.path, e.format, e.elements, e.beats) for e in found.edges] == [
        ("0", "mxint6b4e4", 120, 60),
        ("1", "mxint6b4e4", 100, 40),
        ("3", "mxint6b4e4", 60, 20),
    ]
    assert found.latency.predicted == found.latency.simulated > 0
    assert "all equal" in explain(found)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.sim
def test_chunks_add_up_to_the_whole(case: Case) -> None:
    design = Design.load(case.folder)
    whole, parts = prove(case.graph, design, case.x), prove(case.graph, design, case.x, chunk=7)
    assert (parts.chunk, parts.ok, parts.samples) == (7, True, 20)
    assert [(e.elements, e.beats) for e in parts.edges] == [(e.elements, e.beats) for e in whole.edges]


@pytest.mark.sim
@pytest.mark.parametrize("chunk", [None, 6])
def test_a_tampered_weight_is_found_where_it_first_shows(case: Case, copy: Path, chunk: int | None) -> None:
    found = prove(case.graph, tampered_memory(copy), case.x, chunk=chunk)
    right = run(case.graph, (case.x,), keep=True).codes["_1"]
    wrong = run(case.graph, (case.x,), keep=True, lowering=Tampered()).codes["_1"]
    assert right.exponent is not None
    assert wrong.exponent is not None
    differs = (right.mantissa != wrong.mantissa) | (right.exponent != wrong.exponent)[:, [0, 0, 0, 0, 1]]
    sample, element = (int(i) for i in differs.nonzero()[0])
    first = found.first
    assert first is not None
    assert (first.edge, first.path, first.sample, first.element, first.index) == ("_1", "1", sample, 4, (element,))
    assert (first.expected.code, first.found.code) == (int(right.mantissa[sample, 4]), int(wrong.mantissa[sample, 4]))
    assert (first.expected.exponent, first.found.exponent) == (
        int(right.exponent[sample, 1]),
        int(wrong.exponent[sample, 1]),
    )
    assert first.found.real == pytest.approx(first.found.code * 2.0 ** (first.found.exponent - 4), abs=0)
    assert [e.mismatches for e in found.edges][:2] == [0, int(differs.sum())]
    assert not found.ok
    assert found.cycles_equal


@pytest.mark.sim
def test_the_same_weight_in_the_reference_proves_again(case: Case, copy: Path) -> None:
    assert prove(case.graph, tampered_memory(copy), case.x, lowering=Tampered()).ok


@pytest.mark.sim
def test_a_tampered_constant_is_found_in_the_exponents(case: Case, copy: Path) -> None:
    source = copy / "rtl" / "mase_tiny.sv"
    before, mark, after = source.read_text().rpartition(".Offset(")
    offset, end, rest = after.partition(")")
    source.write_text(f"{before}{mark}{int(offset) + 1}{end}{rest}")
    found = prove(case.graph, Design.load(copy), case.x)
    first = found.first
    assert first is not None
    assert (first.path, first.sample, first.element) == ("3", 0, 0)
    assert first.expected.exponent is not None
    assert (first.found.code, first.found.exponent) == (first.expected.code, first.expected.exponent + 1)
    assert first.found.real == 2 * first.expected.real
    assert [e.mismatches > 0 for e in found.edges] == [False, False, True]


@pytest.mark.sim
def test_another_folding_differs_in_cycles_alone(case: Case) -> None:
    graph, x = mapped(folding={"1": Folding(1, 4), "3": Folding(4, 4)})
    found = prove(graph, Design.load(case.folder), x)
    assert found.mismatches == 0
    assert not found.cycles_equal
    assert found.late is not None
    assert found.late.sample == 0
    assert "Cycles differ: sample 0 is due in cycle" in explain(found)


@pytest.mark.sim
@pytest.mark.parametrize("chunk", [20, 4])
def test_the_waveform_holds_the_wrong_beat_and_its_window_only(
    case: Case, copy: Path, chunk: int, tmp_path: Path
) -> None:
    design = tampered_memory(copy)
    found = prove(case.graph, design, case.x, chunk=chunk)
    view = window(design, case.x, found, tmp_path / "waves")
    assert view.file == tmp_path / "waves" / "difference.vcd"
    assert view.start < view.cycle < view.end
    times, data = wave(view.file, f"{view.signal}_data")
    assert (min(times), max(times)) == (2 * view.start, 2 * view.end + 1)
    beat = max(t for t in data if t <= 2 * view.cycle)
    assert found.first is not None
    lane = found.first.element % 4  # four lanes of six bits
    assert int(data[beat][::-1][6 * lane : 6 * lane + 6][::-1], 2) == found.first.found.code & 63


def wave(path: Path, signal: str) -> tuple[list[int], dict[int, str]]:
    """Return all times of a VCD, and the values of one signal by time, extended to 28 bits."""
    header, _, body = path.read_text().partition("$enddefinitions $end")
    names = {
        line.split()[4].partition("[")[0]: line.split()[3]
        for line in header.splitlines()
        if line.split()[:1] == ["$var"]
    }
    times, values = [], {}
    for line in body.splitlines():
        if line.startswith("#"):
            times.append(int(line[1:]))
        elif line.startswith("b") and line.split()[1] == names[signal]:
            values[times[-1]] = line.split()[0][1:].zfill(28)
    return times, values


@pytest.mark.sim
def test_a_late_sample_has_a_window_too(case: Case, tmp_path: Path) -> None:
    design = Design.load(case.folder)
    late = replace(prove(case.graph, design, case.x), late=Late(3, Pair(50, 51)))
    view = window(design, case.x, late, tmp_path)
    assert view.signal == design.output.signal
    assert view.file.stat().st_size > 0


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_window_of_nothing_is_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing differs"):
        window(Design.load(case.folder), case.x, proof(), tmp_path)


@pytest.mark.parametrize(("samples", "chunk"), [(0, None), (2, 0)])
def test_no_sample_is_refused(case: Case, samples: int, chunk: int | None) -> None:
    with pytest.raises(ConfigError, match="allowed is 1 or more"):
        prove(case.graph, Design.load(case.folder), case.x[:samples], chunk=chunk)


def test_a_design_of_another_graph_is_refused(case: Case) -> None:
    design = Design.load(case.folder)
    with pytest.raises(GraphError, match=r"edge '0' is mxint6b4e4 \(6,\); the graph has fixed8\.4 \(6,\) there"):
        prove(mapped("fixed8.4", {"1": Folding(2, 4), "3": Folding(4, 2)})[0], design, case.x)
    edges = (replace(design.edges[0], name="gone"), *design.edges[1:])
    with pytest.raises(GraphError, match="the graph has no such edge"):
        prove(case.graph, replace(design, edges=edges), case.x)


def test_data_that_has_no_code_is_refused(case: Case) -> None:
    with pytest.raises(FormatError, match="NaN"):
        prove(case.graph, Design.load(case.folder), case.x * torch.nan)


@pytest.mark.parametrize("make", [proof, failed])
def test_a_proof_that_was_kept_reads_back_equal(make: Callable[[], Proof]) -> None:
    kept = replace(make(), late=Late(1, Pair(6, 7.5)))
    assert Proof.from_json(json.loads(json.dumps(kept.to_json()))) == kept


@pytest.mark.parametrize(
    ("change", "said"), [({"samples": "x"}, "samples: found 'x'; input should be"), ({}, "late: is missing")]
)
def test_a_damaged_proof_is_refused(change: dict[str, object], said: str) -> None:
    data = {**proof().to_json(), **change}
    if not change:
        del data["late"]
    with pytest.raises(GraphError, match=said):
        Proof.from_json(data)


# -- what others read --------------------------------------------------------------------------------------------------


def test_an_explanation_says_where_and_what() -> None:
    text = explain(failed())
    assert "3 of 16 codes differ in 2 samples" in text
    assert "sample 1, element 5: expected code -2 (-0.5), found code 7 (1.75)" in text
    assert len(text.splitlines()) == 1


def test_a_first_output_in_another_cycle_is_a_difference() -> None:
    early = proof(first_output=Pair(3, 2))
    assert not early.ok
    assert "the first output beat is due in cycle 3, and comes in cycle 2" in explain(early)


def test_junit_of_a_good_proof_has_no_failure(tmp_path: Path) -> None:
    junit(proof(), tmp_path / "j.xml")
    suite = ET.parse(tmp_path / "j.xml").getroot()[0]
    assert {k: suite.attrib[k] for k in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "0",
        "errors": "0",
    }
    assert not suite.findall(".//failure")


def test_junit_survives_hostile_names_and_says_what_failed(tmp_path: Path) -> None:
    junit(replace(failed(), late=Late(1, Pair(6, 7))), tmp_path / "j.xml")
    suite = ET.parse(tmp_path / "j.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = suite.findall("testcase")
    assert [case.find("failure") is not None for case in cases] == [False, True, True]
    assert cases[1].get("name") == '1.../"&<x>\ufffd\ufffd]]>é\ufffd endmodule (fixed4.2)'
    message = cases[1][0].get("message") or ""
    assert "found code 7 (1.75)" in message


def test_junit_counts_edges_after_the_first_difference(tmp_path: Path) -> None:
    bad = failed()
    first = replace(bad.edges[0], mismatches=2)
    junit(replace(bad, edges=(first, bad.edges[1])), tmp_path / "j.xml")
    messages = [f.get("message") for f in ET.parse(tmp_path / "j.xml").getroot().iter("failure")]
    assert messages[0] == "2 of 8 elements differ"


def test_dump_writes_every_tensor_and_says_which_is_which(case: Case, tmp_path: Path) -> None:
    values = run(case.graph, (case.x,), keep=True)
    index = json.loads(dump(values, tmp_path / "tensors").read_text())
    by_path = {entry["path"]: entry for entry in index["tensors"]}
    files = by_path["1"]["files"]
    loaded = {part: np.load(tmp_path / "tensors" / name) for part, name in files.items()}
    code = values.codes["_1"]
    assert code.exponent is not None
    assert by_path["1"]["format"] == "mxint6b4e4"
    assert np.array_equal(loaded["code"], code.mantissa.numpy())
    assert np.array_equal(loaded["exponent"], code.exponent.numpy())
    assert np.array_equal(loaded["real"], values.real("_1").numpy())


def test_dump_takes_values_without_codes(tmp_path: Path) -> None:
    graph, x = traced()
    values = run(graph, (x,), keep=True)
    values.reals["_3"] = values.reals["_3"].bfloat16()
    entry = json.loads(dump(values, tmp_path).read_text())["tensors"][-1]
    assert (entry["format"], list(entry["files"])) == (None, ["real"])
    assert np.load(tmp_path / entry["files"]["real"]).dtype == np.float32


@pytest.mark.parametrize("name", ["../../evil", "x" * 300, "a/b\x00c", "CON", ".."])
def test_dump_writes_legal_files_inside_its_folder(tmp_path: Path, name: str) -> None:
    graph, x = mapped()
    node = graph.node("_1").node
    node.name = name
    graph.quant[name] = graph.quant["_1"]
    values = run(graph, (x,), keep=True)
    index = dump(values, tmp_path / "out" / "tensors")
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    named = {
        f"tensors/{file}" for entry in json.loads(index.read_text())["tensors"] for file in entry["files"].values()
    }
    assert written == named | {"tensors/index.json"}
    assert name in {entry["name"] for entry in json.loads(index.read_text())["tensors"]}
