"""The certificate of a design holds, says no more than it may, and fails where anything that it rests on is changed."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from emit import certificate
from emit.certificate import Refused, check
from emit.certify import certify
from emit.design import Design
from emit.verilog import emit
from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.schedule import Actor, Channel, run
from mase.dataflow.sizing import needs
from mase.errors import GraphError
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.netlist import build
from passes.map import MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.proof import tight
from tests.emit.test_mutants import victim

ROOT = Path(__file__).resolve().parents[2]
Facts = dict[str, Any]


class Residual(nn.Module):
    """Two ways of different length that meet again, so that the short one needs a deep FIFO."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.c(self.b(torch.relu(y)) + y)


def residual() -> Graph:
    torch.manual_seed(3)
    x = torch.randn(16, 8)
    graph, _ = trace_module(Residual().eval(), (x,))
    config = QuantizeConfig(NodeFormats("fixed6.4", "fixed8.4"), inputs="fixed8.4")
    return map_graph(quantize.run(graph, config, [x])[0], MapConfig(8))[0]


@pytest.fixture(scope="module", name="design")
def _design(tmp_path_factory: pytest.TempPathFactory) -> Design:
    return emit(victim().graph, tmp_path_factory.mktemp("certificate") / "victim", "victim")


@pytest.fixture
def folder(design: Design, tmp_path: Path) -> Path:
    return Path(shutil.copytree(design.folder, tmp_path / "copy"))


def facts_of(folder: Path) -> Facts:
    found: Facts = json.loads((folder / "certificate.json").read_text())
    return found


def change(folder: Path, edit: Callable[[Facts], None]) -> None:
    facts = facts_of(folder)
    edit(facts)
    (folder / "certificate.json").write_text(json.dumps(facts))


def set_parameter(folder: Path, instance: str, key: str, value: int, file: str = "both") -> None:
    """Change a parameter where the RTL is built from, and where it is described."""
    if file in {"both", "design"}:
        manifest = json.loads((folder / "design.json").read_text())
        (entry,) = [i for i in manifest["instances"] if i["name"] == instance]
        entry["parameters"][key] = value
        (folder / "design.json").write_text(json.dumps(manifest))
    if file in {"both", "rtl"}:
        path = folder / "rtl" / f"{facts_of(folder)['top']}.sv"
        text = path.read_text()
        end = text.index(f") {instance} (")
        start = text.rindex("#(", 0, end)
        changed = re.sub(rf"\.{key}\(\d+\)", f".{key}({value})", text[start:end])
        assert changed != text[start:end]
        path.write_text(text[:start] + changed + text[end:])


def test_a_design_is_certified(design: Design) -> None:
    facts = facts_of(design.folder)
    netlist = build(victim().graph)
    cycles = netlist.interval()
    assert check(design.folder).startswith(
        f"mase_victim: never stops, and takes a sample in {cycles} cycles or fewer; "
    )
    assert facts["interval"] == {"samples": 1, "cycles": cycles}
    assert {tuple(w["parameter"]) for w in facts["wires"] if w["parameter"]} == {
        (item["name"], "FifoDepth") for item in design.manifest["instances"]
    }


def test_the_checker_is_short_and_stands_alone(design: Design) -> None:
    path = ROOT / "emit" / "certificate.py"
    tree = ast.parse(path.read_text())
    names = {alias.name for item in ast.walk(tree) if isinstance(item, ast.Import) for alias in item.names}
    names |= {str(item.module) for item in ast.walk(tree) if isinstance(item, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names | {"__future__"}
    assert len(path.read_text().splitlines()) <= 200
    command = [sys.executable, "-S", "-m", "emit.certificate"]  # without site-packages
    done = subprocess.run([*command, str(design.folder)], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mase_victim: never stops")
    done = subprocess.run([*command, str(ROOT)], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_a_folder_without_a_description_is_refused(folder: Path) -> None:
    (folder / "design.json").unlink()
    with pytest.raises(Refused, match=r"cannot be read as a certified design: FileNotFoundError"):
        check(folder)


@pytest.mark.parametrize("file", ["design", "rtl"])
def test_a_design_that_is_not_the_certified_one_is_refused(file: str, folder: Path) -> None:
    facts = facts_of(folder)
    (instance, key), capacity = facts["wires"][-1]["parameter"], facts["wires"][-1]["capacity"]
    set_parameter(folder, instance, key, capacity + 1, file)
    with pytest.raises(Refused, match=f"the parameters of {instance} are not those that were certified"):
        check(folder)


@pytest.mark.parametrize(("graph", "least"), [(lambda: victim().graph, 1), (residual, 5)], ids=["chain", "residual"])
def test_one_entry_less_is_refused_however_it_is_hidden(graph: Callable[[], Graph], least: int, tmp_path: Path) -> None:
    """In the RTL alone; there and in the capacity; and in all that the certificate says."""
    design = emit(graph(), tmp_path / "design", "design")
    assert len(tight(facts_of(design.folder))) >= least
    for index in tight(facts_of(design.folder)):
        folder = Path(shutil.copytree(design.folder, tmp_path / str(index)))
        facts = facts_of(folder)
        wire = facts["wires"][index]
        (instance, key), less = wire["parameter"], wire["capacity"] - 1
        set_parameter(folder, instance, key, less)
        refused(folder, facts, f"the parameters of {instance} are not those that were certified")
        facts["instances"][instance][key] = less
        refused(folder, facts, f"{instance}.{key} is not the capacity of")
        wire["capacity"] = less
        refused(folder, facts, f"has {less} slots and needs {less + 1}")
        wire["need"] = less
        refused(folder, facts, r"takes \d+ cycles a round|no pattern of firings keeps|the design stops")


def refused(folder: Path, facts: Facts, why: str) -> None:
    """Assert that a folder is refused with this certificate."""
    (folder / "certificate.json").write_text(json.dumps(facts))
    with pytest.raises(Refused, match=why):
        check(folder)


def meeting(deep: int) -> Facts:
    """Return two ways that meet again: one gives nothing before it has eight tokens, the other has ``deep`` slots."""
    both = {"acquire": ["a", "b"], "publish": ["a", "b"]}
    join = {"take": ["a", "b"], "free": ["a", "b"]}
    collect, give = {"take": ["in"], "free": ["in"]}, {"acquire": ["out"], "publish": ["out"]}
    bodies = {"fork": [both], "join": [join], "slow": [collect, give]}
    actors = [
        {"name": name, "latency": {}, "body": [{"times": 8, "body": [step]} for step in body]}
        for name, body in bodies.items()
    ]
    ends = [("fork", "a", "slow", "in", 2), ("slow", "out", "join", "a", 2), ("fork", "b", "join", "b", deep)]
    wires = [{"from": [a, out], "to": [b, into], "capacity": depth} for a, out, b, into, depth in ends]
    return {"actors": actors, "wires": wires}


def test_a_short_way_without_the_depth_stops() -> None:
    assert certificate.prove(meeting(8), 1, 16) == ""
    assert re.match(
        r"the design stops: fork waits for a slot of fork.b -> join.b", certificate.prove(meeting(7), 1, 99)
    )


EDITS: dict[str, tuple[Callable[[Facts], Any], str]] = {
    "a faster interval": (lambda f: f["interval"].update(cycles=7), r"alone takes more than 7 cycles"),
    "a slower actor": (lambda f: f["actors"][0]["body"].append({"dwell": 90}), "alone takes more than"),
    "a lost token": (lambda f: f["actors"][0]["body"].append({"publish": ["out"]}), "does not take as many tokens"),
    "a port twice": (lambda f: f["actors"][0]["body"].append({"take": ["in", "in"]}), "names a port twice"),
    "a wire to nowhere": (lambda f: f["wires"][0].update(to=["nobody", "in"]), "does not take as many tokens"),
    "another wire in the RTL": (
        lambda f: f["wires"][0].update(pins=[f["wires"][0]["pins"][0], f["wires"][-2]["pins"][1]]),
        "no wire leads from",
    ),
    "an instance less": (lambda f: f["instances"].popitem(), "has other instances|KeyError"),
    "a depth that is not a parameter": (lambda f: f["wires"][0]["parameter"].__setitem__(1, "Depth"), "KeyError"),
    "another schema": (lambda f: f.update(schema=2), "schema 2; allowed is 1"),
    "nothing": (lambda f: f.clear(), "KeyError"),
    "words for numbers": (lambda f: f["wires"][0].update(capacity="many"), "TypeError|ValueError"),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_is_refused(what: str, folder: Path) -> None:
    edit, why = EDITS[what]
    change(folder, edit)
    with pytest.raises(Refused, match=why):
        check(folder)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100000, '{"schema": 1}', "\x00"])
def test_a_file_that_is_not_a_certificate_is_refused(text: str, folder: Path) -> None:
    (folder / "certificate.json").write_text(text)
    with pytest.raises(Refused, match="cannot be read as a certified design"):
        check(folder)


def test_its_size_does_not_grow_with_the_tensors() -> None:
    def size(rows: int) -> int:
        torch.manual_seed(0)
        x = torch.randn(4, rows, 6)
        graph, _ = trace_module(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).eval(), (x,))
        config = QuantizeConfig(NodeFormats("fixed6.4", "mxint6b2e4"), inputs="fixed8.4")
        netlist = build(map_graph(quantize.run(graph, config, [x])[0], MapConfig())[0])
        return len(json.dumps(certify(netlist, "top", {i.name: i.name for i in netlist.instances})))

    assert size(300) - size(30) < 40  # digits


def test_a_design_whose_fifos_are_too_short_is_certified_for_what_it_keeps(tmp_path: Path) -> None:
    graph = victim().graph
    laid = {node: node.record.hw for node in graph.operators() if node.record.hw is not None}
    least = {node: replace(hw, fifos=dict.fromkeys(hw.fifos, LEAST_FIFO)) for node, hw in laid.items()}
    shallow = graph.replace({node.name: replace(node.record, hw=hw) for node, hw in least.items()})
    facts = facts_of(emit(shallow, tmp_path / "shallow", "shallow").folder)
    kept = Fraction(facts["interval"]["cycles"], facts["interval"]["samples"])
    assert kept > build(shallow).interval()
    assert kept == build(shallow).timing(400).interval
    check(tmp_path / "shallow")


def test_needs_are_the_least_depths_one_by_one() -> None:
    actors, channels = build(victim().graph).network()
    found, free = needs(actors, channels), run(actors, channels, 200).interval
    for i, (channel, need) in enumerate(zip(channels, found, strict=True)):
        deeper = [*channels[:i], _deep(channel, need), *channels[i + 1 :]]
        assert run(actors, deeper, 200).interval == free
        if need > LEAST_FIFO:
            less = [*channels[:i], _deep(channel, need - 1), *channels[i + 1 :]]
            assert _slower_or_stops(actors, less, free)


def test_a_fifo_deeper_than_it_must_be_is_not_tight() -> None:
    actors, channels = build(victim().graph).network()
    deeper = [_deep(channel, channel.depth + 3) for channel in channels]
    assert all(need < channel.depth for need, channel in zip(needs(actors, deeper), deeper, strict=True))


def _deep(channel: Channel, depth: int) -> Channel:
    return replace(channel, depth=depth)


def _slower_or_stops(actors: Sequence[Actor], channels: Sequence[Channel], free: Fraction) -> bool:
    try:
        return run(actors, channels, 200).interval > free
    except GraphError:
        return True
