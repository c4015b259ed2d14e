"""Designs with several inputs and outputs: names, files, codes, cycles, pauses, resets, wrong ``last``, by port."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mase
from emit import tools
from emit.design import Design
from emit.host import Edge
from emit.lint import lint
from emit.names import port_names
from emit.sim import Job, SimResult, simulate_many
from emit.verify import Cycles, Late, Pair, Proof, explain, prove, window
from emit.verilog import emit
from mase.errors import GraphError, RtlFault
from mase.netlist import build
from tests.emit import several
from tests.emit.proof import RESTARTED, STALLED, Case, check_backlog, rows
from tests.emit.proof import prove as prove_all
from tests.emit.test_package import NO_ICARUS, called


@pytest.fixture(scope="module", name="cases")
def _cases() -> Mapping[str, Case]:
    return several.cases()


@pytest.fixture(scope="module", name="designs")
def _designs(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Design]:
    root = tmp_path_factory.mktemp("ports")
    return {name: emit(case.graph, root / name, name, axis_pad=name == "inner") for name, case in cases.items()}


class Same(torch.nn.Module):
    """An argument and a module of one name, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.x(self.x(x))
        return found


def test_edges_of_one_path_are_told_apart(tmp_path: Path) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    graph = mase.quantize(mase.trace(Same().eval(), x), {"default": {"weight": "int4", "activation": "fixed6"}}, [x])
    design = emit(graph, tmp_path / "same")
    assert [edge.path for edge in design.edges] == ["x", "x", "x"]
    assert list(design.titles.values()) == ["x (input)", "x (x_1)", "x (x_2)"]


# -- names and files ---------------------------------------------------------------------------------------------------


def test_one_input_and_one_output_keep_their_short_names() -> None:
    assert port_names(["anything"], ["at all"]) == (["in"], ["out"])


def test_ports_of_several_streams_are_called_as_in_the_model() -> None:
    ins, outs = port_names(["x", "Mask é", "clk"], ["x", "0", "end_module"])
    assert ins == ["x", "mask", "clk_2"]
    assert outs == ["x_2", "out_0", "end_module"]
    assert port_names(["../;", "..,"], ["y"]) == (["x", "x_2"], ["y"])


def test_names_are_legal_and_unique_whatever_the_model_calls_them() -> None:
    texts = ["", "1", "1_", "always", "a" * 90, "a" * 91, "\x00", "_", "in_1"]
    ins, outs = port_names(texts, texts)
    assert len({*ins, *outs}) == 2 * len(texts)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,23}", name) and not name.endswith("_") for name in (*ins, *outs))


def test_the_manifest_says_what_each_port_carries(designs: Mapping[str, Design]) -> None:
    apart, inner, twice, joined, early = designs.values()
    assert [(p.name, p.tensor, p.shape, p.edge.name) for p in apart.ends.all] == [
        ("x", "x", (2, 6), "x"), ("y", "y", (5,), "y"), ("left", "left", (2, 4), "one"),
        ("endmodule", "endmodule", (3,), "two"),
    ]  # fmt: skip
    assert [(p.name, p.edge.path) for p in inner.outputs] == [("out_0", "first"), ("out_1", "second")]
    assert [p.edge.name for p in twice.outputs] == ["fc", "fc", "fc"]
    assert joined.edges[-1].sources == ("fc", "y")
    assert [(m["input"], m["output"]) for m in joined.manifest["axis"]["marks"]] == [("x", "output"), ("y", "output")]
    marks = [mark for design in designs.values() for mark in design.manifest["axis"]["marks"] if mark["early"]]
    assert marks == early.manifest["axis"]["marks"]  # whose windows leave the last row out
    assert [edge.sources for edge in inner.edges] == [(), (inner.input.name,), (inner.edges[1].name,)]
    assert apart.output is apart.outputs[0].edge
    assert [m["input"] for m in apart.manifest["axis"]["marks"]] == ["x", "y"]  # of each output the one it depends on
    assert {name: set(found) for name, found in apart.manifest["cycles"]["outputs"].items()} == {
        name: {"first_output", "latency", "interval"} for name in ("left", "endmodule")
    }


def test_the_wires_between_are_none_of_the_last_edge(designs: Mapping[str, Design]) -> None:
    """The last named edge is not an output as such: what leaves is what the graph returns."""
    assert [p.edge.name for p in designs["inner"].outputs] == [edge.name for edge in designs["inner"].edges[1:]]
    assert len(designs["twice"].edges) == 2


def test_inputs_come_by_place_or_by_name(designs: Mapping[str, Design]) -> None:
    design, x, y = designs["apart"], torch.randn(3, 2, 6), torch.randn(3, 5)
    by_place, by_name = design.encode((x, y)), design.encode({"y": y, "x": x})
    assert all(torch.equal(a.mantissa, b.mantissa) for a, b in zip(by_place, by_name, strict=True))
    for batch, text in (
        ((x,), r"inputs: found 1 tensors; the design takes 2: x, y"),
        ({"x": x}, r"input 'y': is missing"),
        ({"x": x, "z": y}, r"input 'z': the graph has no input of this name"),
        ((x, y[:, :4]), r"input 'y': found \(3, 4\); allowed is \(samples, 5\)"),
        ((x, y[:2]), r"input 'y': found 2 samples; 'x' has 3"),
    ):
        with pytest.raises(GraphError, match=text):
            design.encode(batch)  # type: ignore[arg-type]


def test_a_port_of_no_edge_is_refused(designs: Mapping[str, Design], tmp_path: Path) -> None:
    data = json.loads((designs["twice"].folder / "design.json").read_text())
    for change, text in (
        ({"edge": "gone"}, "carries 'gone', which is not an edge"),
        ({"shape": [7]}, r"shape \(7,\), but the stream has \(5,\)"),
        ({"direction": "out"}, "has 0 inputs and 4 outputs"),
    ):
        ports = [{**data["ports"][0], **change}, *data["ports"][1:]]
        (tmp_path / "design.json").write_text(json.dumps({**data, "ports": ports}))
        with pytest.raises(GraphError, match=text):
            Design.load(tmp_path)


def test_the_host_reads_the_vectors_of_every_port(designs: Mapping[str, Design]) -> None:
    for design in designs.values():
        edges = Edge.ports(design.folder / "design.json")
        assert list(edges) == [port.name for port in design.ends.all]
        for port in design.ends.all:
            lines = (design.folder / "vectors" / f"{port.name}.hex").read_text().split()
            raw = np.array([list(bytes.fromhex(line))[::-1] for line in lines], np.uint8)
            beats = raw.reshape(-1, port.stream.beats, port.stream.bytes)
            expected = port.edge.decode(port.edge.shaped(port.stream.unpack(beats)))
            assert np.array_equal(edges[port.name].decode(*edges[port.name].unpack(beats)), expected.numpy())


def test_the_readme_names_every_port(designs: Mapping[str, Design]) -> None:
    text = " ".join((designs["apart"].folder / "README.md").read_text().split())
    for port in designs["apart"].ends.all:
        assert f"| `{port.name}_data_{'i' if port.direction == 'in' else 'o'}` | {port.direction} " in text
        assert f"| `{port.axis}_tdata` | {port.direction} " in text
        assert f"`{port.name}`, `{port.edge.format}`: an element is" in text
    assert "A sample enters as 6 beats at `x` and 3 beats at `y`" in text
    assert "A sample is complete when its last output is." in text


@pytest.mark.sim
def test_wrappers_and_benches_have_no_finding(designs: Mapping[str, Design]) -> None:
    for design in designs.values():
        files = [design.folder / name for kind in ("rtl", "axis") for name in design.manifest["files"][kind]]
        bench = design.folder / "bench" / f"{design.top}__bench.sv"
        for sources, top in ((files, f"{design.top}_axis"), ([*files, bench], f"{design.top}__bench")):
            assert [str(f) for f in lint(sources, top) if f.severity != "absent"] == []


@pytest.mark.sim
@NO_ICARUS
@pytest.mark.parametrize("way", ["core", "axis"])
def test_the_bench_checks_every_port(designs: Mapping[str, Design], way: str, tmp_path: Path) -> None:
    env = {**tools.child_env(), "BUILD": str(tmp_path / "build")}
    for name in ("apart", "inner"):
        design = designs[name]
        command = ["sh", design.folder / "scripts" / "sim.sh", "iverilog", way]
        done = called(command, tmp_path, env)
        assert done.returncode == 0, done.stdout + done.stderr
        beats = [4 * sum(port.stream.beats for port in ports) * 2 for ports in (design.inputs, design.outputs)]
        assert f"PASS: {design.top}: {beats[0]} beats in, {beats[1]} beats out" in done.stdout
    for port in designs["apart"].outputs:
        vectors = designs["apart"].folder / "vectors" / f"{port.name}.hex"
        kept = vectors.read_text()
        first, *rest = kept.split()
        vectors.write_text("\n".join([f"{int(first, 16) ^ 1:0{len(first)}x}", *rest]) + "\n")
        done = called(["sh", designs["apart"].folder / "scripts" / "sim.sh", "iverilog", way], tmp_path, env)
        vectors.write_text(kept)
        assert done.returncode != 0
        assert re.search(rf"FAIL: {port.name}: output beat 0 of sample 0, cycle \d+: data", done.stdout)


# -- codes and cycles --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="proven")
def _proven(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Design]:
    """Prove all designs in one program: free, with pauses on all ports, from a reset and from a flush."""
    made = prove_all(list(cases.values()), tmp_path_factory.mktemp("proven"), (*STALLED, *RESTARTED))
    return dict(zip(cases, made, strict=True))


def run(cases: Mapping[str, Case], designs: Mapping[str, Design], name: str, **how: object) -> SimResult:
    """Run one design of the bundle; the others get nothing."""
    jobs = [Job(designs[n], tuple(rows(code, slice(0)) for code in case.codes)) for n, case in cases.items()]
    at = list(cases).index(name)
    jobs[at] = replace(jobs[at], codes=cases[name].codes, **how)  # type: ignore[arg-type]
    return simulate_many(jobs)[at]


@pytest.mark.sim
def test_what_is_taken_while_nobody_reads_is_as_predicted(
    cases: Mapping[str, Case], proven: Mapping[str, Design]
) -> None:
    for index in range(len(cases)):
        check_backlog(list(cases.values()), list(proven.values()), index)


@pytest.mark.sim
def test_pauses_of_one_port_change_no_code(cases: Mapping[str, Case], proven: Mapping[str, Design]) -> None:
    free = run(cases, proven, "apart")
    for port in proven["apart"].ends.all:
        found = run(cases, proven, "apart", stalls={port.name: 0.6}, seed=11)
        assert all(torch.equal(found.outputs[name], values) for name, values in free.outputs.items())
        slow = {"x": 0, "left": 0, "y": 1, "endmodule": 1}[port.name]  # the branch that it belongs to
        pairs = list(zip(found.cycles.each, free.cycles.each, strict=True))
        assert pairs[slow][0].completions[-1] > pairs[slow][1].completions[-1]
        if port.direction == "out":  # nothing else may notice
            assert pairs[1 - slow][0] == pairs[1 - slow][1]


@pytest.mark.sim
def test_an_output_that_nobody_reads_holds_up_its_own_branch_alone(
    cases: Mapping[str, Case], proven: Mapping[str, Design]
) -> None:
    samples = len(cases["apart"].code.mantissa)
    with pytest.raises(RtlFault) as caught:
        run(cases, proven, "apart", stalls={"left": 1.0})
    beats = samples * proven["apart"].outputs[1].stream.beats
    assert f"nothing moves at 0 beats of left, {beats} beats of endmodule" in str(caught.value)
    netlist = build(cases["inner"].graph)
    (taken,) = netlist.held({0: 0}, [0])
    with pytest.raises(RtlFault) as caught:  # both outputs depend on the one input
        run(cases, proven, "inner", stalls={"out_0": 1.0})
    assert f"{proven['inner'].input.path}: valid/busy after {taken} beats" in str(caught.value)


@pytest.mark.sim
def test_a_wrong_last_is_seen_at_every_input(cases: Mapping[str, Case], proven: Mapping[str, Design]) -> None:
    for name, design in proven.items():
        for port in design.inputs:
            for beat in (1, port.stream.beats, 2 * port.stream.beats + 1):  # where it is early, or missing
                with pytest.raises(RtlFault, match="error_o is high"):
                    run(cases, proven, name, wrong_last={port.name: beat})


# -- the public road ---------------------------------------------------------------------------------------------------


@pytest.mark.sim
def test_the_public_functions_take_and_give_several(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, y = several.Apart().eval(), torch.randn(6, 2, 6), torch.randn(6, 5)
    graph = mase.trace(model, (x, y), output=("left", "endmodule"))
    graph = mase.quantize(graph, {"default": {"weight": "int4", "activation": "fixed6.3"}}, [(x, y)])
    graph.save(tmp_path / "graph")
    design = mase.emit(mase.Graph.load(tmp_path / "graph"), tmp_path / "rtl", "road")
    result = mase.simulate(design, {"y": y, "x": x})
    expected = graph.fields(x, y)
    assert list(result.outputs) == ["left", "endmodule"]
    assert all(torch.equal(result.outputs[name], values) for name, values in expected.items())
    assert torch.equal(mase.emulate(graph, (x, y)), result.output)
    assert mase.estimate(graph).latency_cycles == result.latency


@pytest.mark.sim
def test_a_proof_names_the_output(cases: Mapping[str, Case], tmp_path: Path) -> None:
    graph, x, y = cases["apart"].graph, torch.randn(6, 2, 6), torch.randn(6, 5)
    design = emit(graph, tmp_path / "rtl", "apart")
    proof = prove(graph, design, (x, y), chunk=4)
    assert proof.ok, explain(proof)
    assert [found.port for found in proof.outputs] == ["left", "endmodule"]
    assert Proof.from_json(json.loads(json.dumps(proof.to_json()))) == proof
    memory = next((design.folder / "mem").glob("*__two_weight.mem"))
    words = memory.read_text().split()
    memory.write_text("\n".join([f"{int(words[0], 16) ^ 1:0{len(words[0])}x}", *words[1:]]) + "\n")
    wrong = prove(graph, design, (x, y), chunk=4)
    assert wrong.first is not None
    assert (wrong.first.edge, wrong.ok) == ("two", False)
    view = window(design, (x, y), wrong, tmp_path)
    assert view.signal == design.outputs[1].edge.signal
    assert view.start <= view.cycle <= view.end


def test_a_late_sample_is_named_with_its_output() -> None:
    pair, late = Pair(3, 3), Late(4, Pair(20, 21), "endmodule")
    cycles = tuple(Cycles(name, pair, pair, pair) for name in ("left", "endmodule"))
    proof = Proof("top", 6, 6, (), None, pair, pair, pair, late, cycles)
    assert not proof.cycles_equal
    assert "sample 4 of endmodule is due in cycle 20, and comes in cycle 21" in explain(proof)
    early = replace(proof, late=None, outputs=(cycles[0], replace(cycles[1], first_output=Pair(3, 2))))
    assert not early.ok
    assert "the first output beat of endmodule is due in cycle 3, and comes in cycle 2" in explain(early)
