"""The road end to end: the API of the README, and a small run with its folder, resumed, kept and repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import mase
from mase import flow
from mase.cli import call
from mase.errors import ConfigError, GraphError, UnsupportedOp
from mase.explore.study import Study
from mase.graph import Graph
from mase.metrics.perplexity import perplexity

FORMATS = ["fixed4", "fixed8", "int6", "mxint6b8e4"]
SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"name": "mlp", "options": {"sizes": [64, 12, 10]}},
    "data": {"name": "digits"},
    "train": {"epochs": 12},
    "search": {"strategy": "random", "trials": 8, "tolerance": 0.05, "weight": FORMATS, "activation": FORMATS},
    "hardware": {"interval": 80},
    "simulate": {"samples": 24},
    "synthesize": {"enabled": False},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return every file that the same configuration must give again, byte for byte."""
    files = [*folder.glob("rtl/**/*"), *folder.glob("best/*"), folder / "pareto.json", folder / "trials.csv"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


@pytest.mark.sim
def test_the_api_walks_the_whole_road(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3)).eval()
    x = torch.randn(16, 2, 5)
    graph = mase.trace(model, x)
    assert torch.equal(graph(x), model(x))
    graph = mase.quantize(graph, {"default": {"weight": "int8", "activation": "fixed8.4"}}, calib=[x])
    y = mase.emulate(graph, x)
    assert (y - model(x)).abs().max() < 0.2
    cost = mase.estimate(graph, target="xcup", clock_mhz=200)
    design = mase.emit(graph, tmp_path / "mlp")
    result = mase.simulate(design, x)
    assert torch.equal(result.output, y)
    assert result.cycles.latency == cost.latency_cycles
    assert mase.simulate(tmp_path / "mlp", x[:3]).output.equal(y[:3])


@pytest.mark.sim
def test_a_run_leaves_a_proven_design_and_a_second_one_keeps_it(home: Path) -> None:
    said: list[tuple[str, str]] = []
    report = flow.run(home / "small.yaml", home / "first", flow.Notices(lambda name, what: said.append((name, what))))
    folder = home / "first"
    assert report.rtl is not None and report.search is not None
    assert (report.rtl.samples, report.rtl.mismatches, report.rtl.lint_warnings) == (24, 0, 0)
    assert report.warnings == ()
    assert report.rtl.latency_cycles.predicted == report.rtl.latency_cycles.simulated
    assert report.rtl.interval_cycles.predicted == report.rtl.interval_cycles.simulated
    assert report.accuracy.chosen_validation >= report.accuracy.float_validation - 0.05 - 1e-9
    chosen = report.search.points[report.search.chosen]
    assert chosen.accuracy == report.accuracy.chosen_validation
    within = [p for p in report.search.points if p.feasible]
    assert chosen.cost == min(p.cost for p in within)
    expected = {
        "config.yaml",
        "study.journal",
        "trials.csv",
        "pareto.json",
        "best",
        "rtl",
        "report.json",
        "report.html",
    }
    assert expected <= {p.name for p in folder.iterdir()}
    before = {f: f.stat().st_mtime_ns for f in folder.glob("rtl/**/*")}
    said.clear()
    flow.run(home / "small.yaml", folder, flow.Notices(lambda name, what: said.append((name, what))))
    assert [what for name, what in said if name != "report"] == ["kept"] * len([s for s in said if s[0] != "report"])
    assert before == {f: f.stat().st_mtime_ns for f in folder.glob("rtl/**/*")}


TWO = """
import torch
from torch import Tensor, nn

from mase.data.base import Data, Split


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(3, 6)
        self.sum, self.sign = nn.Linear(6, 2), nn.Linear(6, 1)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        hidden = (self.a(a) + self.b(b)).relu()
        return {"sum": self.sum(hidden), "sign": self.sign(hidden)}


def model() -> nn.Module:
    return Model()


def data() -> Data:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        a, b = torch.randn(count, 5, generator=generator), torch.randn(count, 3, generator=generator)
        return Split(a, torch.stack([a.sum(1), b.sum(1)], 1), others=(b,))

    return Data("two", split(256), split(40), split(40), task="values")
"""


@pytest.mark.sim
def test_a_regression_with_two_inputs_and_two_results(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    config = {
        **SMALL,
        "name": "two",
        "model": {"python": "two.py:model"},
        "data": {"python": "two.py:data"},
        "train": {"epochs": 120, "rate": 0.01},
        "search": {"strategy": "random", "trials": 3, "tolerance": 40, "weight": ["int8"], "activation": FORMATS},
        "hardware": {},
        "simulate": {"samples": 5},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    said: list[str] = []
    report = flow.run(tmp_path / "two.yaml", tmp_path / "run", flow.Notices(say=said.append))
    assert any("all are built, 'sum' is trained and scored; model.outputs chooses others" in text for text in said)
    assert report.rtl is not None
    assert (report.rtl.mismatches, report.rtl.samples) == (0, 5)
    assert [(out.tensor, out.scored) for out in report.rtl.outputs] == [("sum", True), ("sign", False)]
    assert all(out.latency_cycles.same and out.first_cycles.same for out in report.rtl.outputs)
    assert report.accuracy.metric == "snr"
    assert 3 < report.accuracy.float < 100  # trained: the first result, on both inputs
    built, design, inputs = flow.finished(tmp_path / "run")
    assert len(inputs) == len(design.inputs) == 2
    assert mase.emulate(built, inputs, chunk=2).equal(mase.emulate(built, inputs))
    assert json.loads((tmp_path / "run" / "pareto.json").read_text())["objectives"][0]["name"] == "snr"


def test_a_result_is_chosen_by_name(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        TWO.replace('"sum": self.sum(hidden)', '"one": self.sign(hidden)').replace(
            '"sign": self.sign', '"sign": self.sum'
        )
    )
    config = {**SMALL, "model": {"python": "two.py:model"}, "data": {"python": "two.py:data"}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"model: gives \[2, 1\] for 2 samples; the labels are values \[2, 2\]"):
        flow.open_run(tmp_path / "two.yaml", tmp_path / "run").look()
    chosen = flow.open_run(tmp_path / "two.yaml", tmp_path / "run", overrides=["model.outputs=[sign]"]).look()
    assert chosen.output.record.attrs["fields"] == ["sign"]
    with pytest.raises(GraphError, match="output 'sing': the model does not return it; did you mean sign"):
        flow.open_run(tmp_path / "two.yaml", tmp_path / "run", overrides=["model.outputs=[sing]"]).look()


@pytest.mark.sim
def test_the_same_configuration_gives_the_same_bytes(home: Path) -> None:
    flow.run(home / "small.yaml", home / "first")
    flow.run(home / "small.yaml", home / "second")
    assert bytes_of(home / "first") == bytes_of(home / "second")


def test_a_killed_search_goes_on_with_the_same_points(home: Path) -> None:
    whole = flow.search(home / "small.yaml", home / "whole")
    code = f"import mase; mase.search({str(home / 'small.yaml')!r}, {str(home / 'killed')!r})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    journal = home / "killed" / "study.journal"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and child.poll() is None:
        if journal.is_file() and journal.read_bytes().count(b"\n") > 4:
            break
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    after = flow.search(home / "small.yaml", home / "killed")
    assert [(t.point, t.metrics) for t in after.trials] == [(t.point, t.metrics) for t in whole.trials]


def test_more_trials_go_on_and_another_space_starts_anew_beside_the_old_journal(home: Path) -> None:
    shutil.copytree(home / "whole", home / "more") if (home / "whole").is_dir() else None
    first = flow.upto(flow.open_run(home / "small.yaml", home / "more"), "search").study
    second = flow.upto(flow.open_run(home / "small.yaml", home / "more", None, ["search.trials=10"]), "search").study
    assert first is not None and second is not None
    assert second.trials[:8] == first.trials and len(second.trials) == 10
    other = flow.upto(
        flow.open_run(home / "small.yaml", home / "more", None, ["search.weight=[fixed8, int6]"]), "search"
    )
    assert other.study is not None and len(other.study.trials) == 8
    kept = list((home / "more").glob("study-*.journal"))
    assert len(kept) == 1
    assert len(Study.load(kept[0], "small").trials) == 10


def test_a_database_with_metrics_of_other_weights_is_refused(home: Path) -> None:
    storage = f"search.storage=sqlite:///{home / 'shared.db'}"
    first = flow.upto(flow.open_run(home / "small.yaml", home / "url", None, [storage, "search.trials=2"]), "search")
    again = flow.upto(flow.open_run(home / "small.yaml", home / "url2", None, [storage, "search.trials=3"]), "search")
    assert first.study is not None and again.study is not None
    assert again.study.trials[:2] == first.study.trials
    made = flow.open_run(home / "small.yaml", home / "url", None, [storage, "search.trials=2", "train.epochs=11"])
    with pytest.raises(ConfigError, match=r"made from other weights or data.*use another name or storage"):
        flow.upto(made, "search")


def test_a_new_version_does_not_reuse_metrics(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["search.trials=2"]
    flow.upto(flow.open_run(home / "small.yaml", home / "version", None, few), "search")
    monkeypatch.setattr(flow, "_version", lambda name: "next")
    flow.upto(flow.open_run(home / "small.yaml", home / "version", None, few), "search")
    assert len(list((home / "version").glob("study-*.journal"))) == 1


def test_two_workers_find_the_same_metrics_for_the_same_points(home: Path) -> None:
    one = {t.point: t.metrics for t in flow.search(home / "small.yaml", home / "whole").trials}
    made = flow.open_run(home / "small.yaml", home / "two", None, ["search.workers=2"])
    study = flow.upto(made, "search").study
    assert study is not None
    texts = {tuple(sorted(study.space.text(t.point).items())): t.metrics for t in study.trials}
    for point, metrics in one.items():
        assert texts.get(tuple(sorted(study.space.text(point).items())), metrics) == metrics


def test_no_design_within_tolerance_says_the_nearest(home: Path) -> None:
    changes = ["search.tolerance=0", "search.weight=[fixed2]", "search.activation=[fixed2]", "search.trials=1"]
    with pytest.raises(ConfigError, match="the nearest is trial 0"):
        flow.upto(flow.open_run(home / "small.yaml", home / "none", None, changes), "search")


@pytest.mark.sim
def test_verify_finds_a_tampered_memory_and_writes_a_waveform(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow.run(home / "small.yaml", home / "first")
    shutil.copytree(home / "first", home / "tampered", dirs_exist_ok=True)
    memory = sorted((home / "tampered" / "rtl" / "mem").glob("*fc2*weight.mem"))[0]
    words = memory.read_text().split()
    memory.write_text("\n".join(["5" * len(word) for word in words]) + "\n")
    junit = home / "junit.xml"
    assert call(["verify", str(home / "tampered"), "--junit", str(junit), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first"]["path"] == "fc2"
    assert Path(found["window"]).read_text().startswith("$version")
    assert "failure" in junit.read_text()
    assert call(["verify", str(home / "first")]) == 0
    assert "all equal" in capsys.readouterr().out
    assert call(["compare", str(home / "first"), "--rtl", str(home / "tampered" / "rtl")]) == 1
    assert "The first: wire fc2.out of node 'fc2' (linear" in (told := capsys.readouterr().out)
    assert "Accumulator: " in told
    assert call(["compare", str(home / "first" / "rtl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


def test_the_users_own_model_and_data_run_from_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\nfrom mase.data.base import Data, Split\n\n\n"
        "def build(width):\n    torch.manual_seed(1)\n"
        "    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 3))\n\n\n"
        "def load():\n    g = torch.Generator().manual_seed(0)\n    x = torch.randn(90, 6, generator=g)\n"
        "    y = x[:, :3].argmax(1)\n"
        "    return Data('mine', Split(x[:50], y[:50]), Split(x[50:70], y[50:70]), Split(x[70:], y[70:]))\n"
    )
    config = {
        "name": "mine",
        "model": {"python": "mine.py:build", "options": {"width": 8}},
        "data": {"python": "mine.py:load"},
        "quantize": {"default": {"weight": "int8", "activation": "int8"}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    said: list[str] = []
    made = flow.open_run(tmp_path / "mine.yaml", tmp_path / "run", flow.Notices(say=said.append))
    done = flow.upto(made, "emit")
    assert done.design is not None and done.design.inputs[0].shape == (6,)
    assert [text for text in said if "mine.py" in text]


def test_what_has_no_hardware_is_named_with_its_source_line(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(torch.softmax(x, -1))

    graph = mase.trace(Odd().eval(), torch.randn(2, 3))
    with pytest.raises(
        UnsupportedOp,
        match=r"node 'softmax' \(softmax, test_flow.py:\d+\): has no hardware; supported: activation, add,",
    ):
        mase.emit(mase.quantize(graph, {"default": {"activation": "fixed8.4"}}), tmp_path / "odd")
    assert not list(tmp_path.iterdir())


def test_a_model_that_trains_or_holds_nan_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(GraphError, match="training mode"):
        mase.trace(model, torch.randn(1, 2))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(GraphError, match=r"parameter '0.weight': holds NaN"):
        mase.trace(model.eval(), torch.randn(1, 2))


def test_a_read_only_folder_is_one_clear_error(home: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "runs").write_text("a file where a folder should be")
        assert call(["trace", str(home / "small.yaml"), "--out", str(tmp_path / "runs" / "x")]) == 2
    else:
        (tmp_path / "locked").mkdir(mode=0o555)
        assert call(["trace", str(home / "small.yaml"), "--out", str(tmp_path / "locked" / "x")]) == 2


TEXT: dict[str, Any] = {
    "name": "text",
    "model": {
        "name": "llama",
        "options": {"layers": 1, "dim": 16, "heads": 2, "kv_heads": 1, "hidden": 16, "tied": True},
    },
    "data": {"name": "text", "options": {"path": "here.txt", "window": 8}},
    "train": {"steps": 3, "batch": 4, "clip": 1.0},
    "quantize": {"default": {"weight": "int8", "activation": "int8"}},
}


def test_a_language_model_is_trained_kept_and_traced_from_a_text_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("the cat sat on the mat. " * 60)
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(TEXT))
    said: list[tuple[str, str]] = []
    notices = flow.Notices(stage=lambda name, what: said.append((name, what)))
    first = flow.upto(flow.open_run(tmp_path / "text.yaml", tmp_path / "run", notices), "trace")
    ids = torch.randint(256, (2, 8))
    assert torch.equal(first.graph(ids), first.model(ids))
    assert ("train", "kept") not in said
    again = flow.upto(flow.open_run(tmp_path / "text.yaml", tmp_path / "run", notices), "trace")
    assert ("train", "kept") in said
    assert torch.equal(again.model(ids), first.model(ids))
    (tmp_path / "here.txt").write_text("another text, so it is trained again. " * 60)
    said.clear()
    flow.upto(flow.open_run(tmp_path / "text.yaml", tmp_path / "run", notices), "trace")
    assert ("train", "start") in said


READ = TEXT | {
    "data": {"name": "text", "options": {"path": "here.txt", "window": 8}, "calibration": 3},
    "search": {
        "strategy": "random",
        "trials": 4,
        "weight": ["mxint4b16", "mxint8b16", "int4g8f_fp16"],
        "activation": ["mxint4b16", "mxint6b16", "int8"],
        "bits": 6.5,
        "samples": 3,
    },
}


@pytest.fixture
def reading(tmp_path: Path) -> Path:
    """Return a configuration that searches formats of a language model."""
    (tmp_path / "here.txt").write_text("the cat sat on the mat. " * 60)
    (tmp_path / "text.yaml").write_text(yaml.safe_dump(READ))
    return tmp_path / "text.yaml"


def test_a_language_model_is_searched_and_its_graph_reads_as_was_scored(reading: Path) -> None:
    made = flow.open_run(reading, reading.parent / "run")
    done = flow.upto(made, "build")
    assert done.study is not None and done.chosen is not None
    within = [t for t in done.study.trials if t.metrics["bits"] <= 6.5]
    assert len(done.study.trials) == 4 > len(within) > 1
    assert done.chosen.metrics["perplexity"] == min(t.metrics["perplexity"] for t in within)
    found = perplexity(Graph.load(reading.parent / "run" / "best"), made.data.validation, 8, 8, limit=24)
    assert found.perplexity == done.chosen.metrics["perplexity"] == done.chosen_validation
    assert found.perplexity != done.float_validation
    front = json.loads((reading.parent / "run" / "pareto.json").read_text())
    assert [o["name"] for o in front["objectives"]] == ["perplexity", "density"]


def test_a_language_model_is_chosen_by_bits_within_a_tolerance(reading: Path) -> None:
    changes = ["search.bits=null", "search.score=bits_per_byte", "search.tolerance=0.5"]
    done = flow.upto(flow.open_run(reading, reading.parent / "run", None, changes), "search")
    assert done.study is not None and done.chosen is not None
    allowed = done.float_validation + 0.5
    within = [t for t in done.study.trials if t.metrics["bits_per_byte"] <= allowed]
    assert within
    assert done.chosen.metrics["bits"] == min(t.metrics["bits"] for t in within)


def test_a_killed_search_of_a_language_model_goes_on_with_other_workers(reading: Path) -> None:
    whole = flow.upto(flow.open_run(reading, reading.parent / "one"), "search").study
    flow.upto(flow.open_run(reading, reading.parent / "two", None, ["search.trials=2"]), "search")
    changes = ["search.trials=4", "search.workers=2"]
    parts = flow.upto(flow.open_run(reading, reading.parent / "two", None, changes), "search").study
    assert whole is not None and parts is not None
    assert whole.trials == parts.trials


def test_strategies_with_tables_search_a_language_model(reading: Path) -> None:
    changes = ["search.strategy=ilp", "search.trials=20", "search.bits=5.5", "search.weight=[mxint3b16, mxint8b16]"]
    done = flow.upto(flow.open_run(reading, reading.parent / "run", None, changes), "search")
    assert done.study is not None and done.chosen is not None
    designs = done.study.trials[len(done.study.space.uniform_points()) :]  # of the tables, the cheapest first
    bits = [trial.metrics["bits"] for trial in designs]
    assert bits == sorted(bits)
    assert 5.2 < bits[-1] <= 5.5


def test_a_language_model_is_not_emitted_and_is_told_so_before_it_trains(reading: Path) -> None:
    said: list[tuple[str, str]] = []
    notices = flow.Notices(stage=lambda name, what: said.append((name, what)))
    with pytest.raises(UnsupportedOp, match=r"not emitted yet: no hardware for node 'embedding' .*`mase search`"):
        flow.run(reading, reading.parent / "run", notices)
    assert said == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["search.bits=2"], r"search.bits 2: no design has so few; the least is 4"),
        (
            ["search.score=accuracy"],
            r"search.score 'accuracy': labels of data text are tokens; allowed is perplexity",
        ),
        (["search.activation=[mxint4b16, int4g8]"], r"search.activation\[1\] int4g8: stores a scale for each group"),
        (["model.options.vocab=100"], "model: "),
    ],
)
def test_what_a_language_model_cannot_be_searched_with_is_one_line(
    reading: Path, changes: list[str], text: str
) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        flow.upto(flow.open_run(reading, reading.parent / "run", None, changes), "search")
    assert "\n" not in str(caught.value)


def test_bits_are_of_language_models_alone(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"search.bits 4.5: is of language models; data digits are scored by"):
        flow.upto(flow.open_run(home / "small.yaml", home / "bits", None, ["search.bits=4.5"]), "search")


def test_calibration_samples_are_chosen_as_the_configuration_says(tmp_path: Path) -> None:
    found = []
    for sampler in ("first", "stratified"):
        config = SMALL | {"data": {"name": "digits", "calibration": 20, "sampler": sampler}}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
        made = flow.open_run(tmp_path / "small.yaml", tmp_path / sampler)
        found.append(flow.upto(made, "trace").samples)
    assert {len(x) for samples in found for x in samples.values()} == {20}
    first, other = (next(iter(samples.values())) for samples in found)
    assert torch.equal(first, made.data.train.x[:20].reshape(first.shape))
    assert not torch.equal(first, other)
