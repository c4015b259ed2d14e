"""A study: which cells there are, that each is a process, what is kept, and what a cell computes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import mase
from mase import studyconfig
from mase.cli import call
from mase.data.base import Passage, load
from mase.errors import ConfigError, GraphError
from mase.frontend import trace
from mase.metrics.perplexity import perplexity
from mase.models.base import build
from mase.paths import configs_dir
from passes.ptq import study
from passes.ptq.base import METHODS
from passes.ptq.study import Study, cells, run_cell
from tests.docs.pages import DOCS, blocks
from tests.processes import alive, children
from tests.ptq.folders import write

TINY: dict[str, Any] = {
    "name": "llama",
    "options": {"dim": 16, "hidden": 24, "layers": 2, "heads": 2, "kv_heads": 1, "length": 32},
}
BASE: dict[str, Any] = {
    "models": {"tiny": TINY},
    "recipes": {"gptq": ["gptq"]},
    "formats": ["int3g8", "int2g8"],
    "data": {"name": "text", "options": {"path": "text.txt", "window": 16}},
    "calibration": {"samples": 8, "length": 16},
    "evaluation": {"window": 16, "tokens": 256},
}
pytestmark = pytest.mark.filterwarnings("ignore:gptq. ")  # few tokens: the figures do not matter here


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    text = (Path(study.__file__).read_text() * 3)[:60_000]
    (folder / "text.txt").write_text(text)
    return folder


def made(home: Path, **changes: Any) -> studyconfig.StudyConfig:
    path = home / "study.yaml"
    path.write_text(yaml.safe_dump({**BASE, **changes}))
    return studyconfig.load(path)


def refused(home: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
    made_path = home / "bad.yaml"
    made_path.write_text(yaml.safe_dump({**BASE, **changes}))
    assert call(["study", str(made_path), "--out", str(home / "never")]) == 2
    assert not (home / "never").exists()
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def small_tokenizer(path: Path) -> None:
    """Write a tokenizer.json."""
    from mase.data.tokens import tokenizer

    tokenizer("bpe260", ["some words " * 9]).model.save(str(path))  # type: ignore[attr-defined]  # it is of subwords


# -- which cells there are ---------------------------------------------------------------------------------------------


def test_steps_without_a_format_get_each_and_branches_keep_theirs(home: Path) -> None:
    recipes = {"both": ["awq", {"gptq": {"damp": 0.02}}, "l2qer"], "told": [{"rtn": {"format": "int5g8"}}]}
    found = cells(made(home, recipes=recipes, seeds=[3, 4], baseline={"formats": ["int4g8"]}), home)
    names = [(cell.recipe, cell.format) for cell in found if cell.seed == 3]
    base = [("rtn", "int4g8"), ("rtn", "int3g8"), ("rtn", "int2g8")]
    assert names == [("float", ""), *base, ("both", "int3g8"), ("both", "int2g8"), ("told", "")]
    both = next(cell for cell in found if cell.format == "int2g8" and cell.recipe == "both")
    fields = [next(iter(step.values())) for step in both.job["recipe"]]
    assert [step["format"] for step in fields] == ["int2g8", "int2g8", "mxint8"]
    assert fields[1]["damp"] == 0.02
    assert len({cell.key for cell in found}) == len(found) == 14


def test_keys_follow_from_what_a_cell_follows_from(home: Path, tmp_path: Path) -> None:
    def keys(**changes: Any) -> dict[tuple[int, str, str], str]:
        return {(c.seed, c.recipe, c.format): c.key for c in cells(made(home, **changes), home)}

    first = keys()
    more = keys(recipes={"gptq": ["gptq"], "awq": ["awq", "rtn"]}, seeds=[0, 1], workers=3, name="other")
    assert first.items() < more.items()
    assert not set(first.values()) & set(keys(calibration={"samples": 9, "length": 16}).values())
    damped = keys(recipes={"gptq": [{"gptq": {"damp": 0.02}}]})
    assert {place for place in first if first[place] != damped[place]} == {(0, "gptq", f) for f in BASE["formats"]}


def test_keys_follow_from_what_files_hold(home: Path, tmp_path: Path) -> None:
    for kind in ("model", "hub"):
        write(tmp_path / kind, "llama")
    (tmp_path / "text.txt").write_text((home / "text.txt").read_text())
    for path in ("own.json", "model/tokenizer.json"):
        small_tokenizer(tmp_path / path)
    models = {
        "own": {**TINY, "tokens": "own.json"},
        "folder": {"folder": "model"},
        "built": {"name": "huggingface", "options": {"path": "hub"}},
        "free": TINY,
    }

    config = made(tmp_path, models=models)
    keys = {str(cell): cell.key for cell in cells(config, tmp_path)}
    assert keys == {str(cell): cell.key for cell in cells(config, tmp_path)}

    def changed(path: str) -> set[str]:
        """Return the models of which each cell has another key when a file holds something else."""
        with (tmp_path / path).open("ab") as out:
            out.write(b" ")
        before = dict(keys)
        keys.update({str(cell): cell.key for cell in cells(config, tmp_path)})
        same = {place.split()[0] for place in keys if keys[place] == before[place]}
        return models.keys() - same

    assert changed("text.txt") == set(models)
    assert changed("own.json") == {"own"}
    assert changed("model/tokenizer.json") == changed("model/config.json") == {"folder"}
    assert changed("hub/config.json") == {"built"}


def test_what_a_study_cannot_be_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(**changes: Any) -> str:
        return refused(home, capsys, **changes)

    assert "recipes.x[0]: unknown method 'gptk'; did you mean gptq?" in said(recipes={"x": ["gptk"]})
    assert "recipes.rtn: this name is taken" in said(recipes={"rtn": ["rtn"]})
    assert "formats[1]: " in said(formats=["int3g8", "intt4"])
    assert "models.tiny: give either name or folder" in said(models={"tiny": {}})
    assert "models.tiny: options and train belong to a name" in said(models={"tiny": {"folder": "x", "train": {}}})
    assert "unknown name 'lama'; did you mean llama?" in said(models={"tiny": {"name": "lama"}})
    assert "models.tiny: model llama: unknown option 'dims'; did you mean dim?" in said(
        models={"tiny": {"name": "llama", "options": {"dims": 3}}}
    )
    assert "no such folder" in said(models={"tiny": {"folder": "nowhere"}})
    assert "data.name: text: unknown name 'digits'; allowed: arrow, stdlib, text" in said(data={"name": "digits"})
    assert "data.options.tokens" in said(data={"name": "text", "options": {"tokens": "bytes"}})
    assert "baseline: needs steps that take a format" in said(baseline={"steps": [{"rtn": {"format": "int4g8"}}]})
    assert "seed: unknown field" in said(seed=3)
    assert "seeds: 7 stands there twice" in said(seeds=[0, 7, 7])
    assert "baseline.name: float is what the model is before" in said(baseline={"name": "float"})


def test_what_no_cell_could_do_is_refused_before_any_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(**changes: Any) -> str:
        return refused(home, capsys, **changes)

    none = "leaves all weights in float; add a quantizer, such as rtn"
    assert f"recipes.x: activations {none}" in said(recipes={"x": ["activations"]})
    assert f"baseline.steps: awq {none}" in said(baseline={"steps": ["awq"]})
    assert "recipes.x: gptq and rtn both quantize" in said(recipes={"x": ["gptq", "rtn"]})
    stride, short = {"window": 16, "stride": 17, "tokens": 256}, {"window": 16, "tokens": 15}
    assert "evaluation.stride: found 17; allowed is at most window, 16" in said(evaluation=stride)
    assert "evaluation.tokens: found 15; allowed is window, 16, or more" in said(evaluation=short)
    assert "models.a: lenet fails on a window of 16 tokens: " in said(models={"a": {"name": "lenet"}})
    assert "models.a: model llama: unknown option 'path'" in said(
        models={"a": {"name": "llama", "options": {"path": 5}}}
    )
    assert "models.a.options.path: found 5" in said(models={"a": {"name": "huggingface", "options": {"path": 5}}})
    assert "models.tiny.tokens: tokens 'word'; allowed are bytes, bpeN" in said(
        models={"tiny": {**TINY, "tokens": "word"}}
    )
    assert "option 'path': found 5" in said(data={"name": "text", "options": {"path": 5}})
    assert "gone.txt: no file" in said(data={"name": "text", "options": {"path": "gone.txt"}})


# -- processes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "EVALUATOR", "tests.ptq.study_cells:evaluator")


def ran(home: Path) -> Counter[str]:
    return Counter((home / "ran").read_text().splitlines())


@pytest.mark.usefixtures("idle")
def test_failures_are_told_and_stop_nothing_and_what_is_done_stays_done(home: Path, tmp_path: Path) -> None:
    recipes = {"dies": [{"gptq": {"format": "int4g8"}}], "falls": [{"omniquant": {"format": "int4g8a"}}]}
    config = made(home, recipes=recipes, workers=2)
    said, told = list[str](), list[tuple[int, int]]()
    (home / "ran").unlink(missing_ok=True)
    table = Study(config, home, tmp_path / "out").run(lambda done, total, *_: told.append((done, total)), said.append)
    assert told == [(i, 5) for i in range(1, 6)]
    failed = {found.recipe: found.failed for found in table.failed}
    assert failed == {
        "dies": "the process died (signal 9, as where memory runs out)",
        "falls": "of two lines",
    }
    assert len(said) == 2 and len(table.rows) == 3
    again = Study(config, home, tmp_path / "out").run()
    assert again == table and set(ran(home).values()) == {1}
    lines = (tmp_path / "out" / "study.csv").read_text().splitlines()
    assert len(lines) == 6 and lines[0].startswith("model,seed,recipe,format,loss")
    assert json.loads((tmp_path / "out" / "study.json").read_text())["cells"] == 5
    assert "the process died" in (tmp_path / "out" / "report.html").read_text()
    retried = Study(config, home, tmp_path / "out").run(retry=True)
    assert retried == table
    assert ran(home) == {"float": 1, "rtn int3g8": 1, "rtn int2g8": 1, "gptq int4g8": 2, "omniquant int4g8a": 2}


@pytest.mark.usefixtures("idle")
def test_a_float_model_that_fails_fails_its_cells(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "EVALUATOR", "tests.ptq.study_cells:nothing")
    table = Study(made(home), home, tmp_path / "out").run()
    assert len(table.failed) == 5 and not table.rows
    assert {found.failed.partition(":")[0] for found in table.failed[1:]} == {"the model was not scored in float"}
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 1  # only what was run is kept


@pytest.mark.usefixtures("idle")
def test_a_killed_study_goes_on_behind_the_last_finished_cell(home: Path, tmp_path: Path) -> None:
    config = made(home, recipes={"slow": ["signround"]})
    out = tmp_path / "out"
    (home / "ran").unlink(missing_ok=True)
    parent = os.fork()
    if not parent:
        Study(config, home, out).run()
        os._exit(1)  # never reached: the last cell sleeps
    while not (home / "ran").is_file() or "signround int3g8" not in ran(home):
        time.sleep(0.05)
    (worker,) = children(parent)
    with pytest.raises(ConfigError, match="another process is running this study"):
        Study(config, home, out).run()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    kept = {path: path.read_bytes() for path in (out / "cells").iterdir()}
    assert len(kept) == 3
    while alive(worker):
        time.sleep(0.05)
    shorter = made(home, recipes={"more": ["opt_rtn"]})
    table = Study(shorter, home, out).run()
    assert not table.failed and len(table.found) == 5
    assert {path: path.read_bytes() for path in kept} == kept
    once = ["float", *(f"{name} int{bits}g8" for name in ("rtn", "opt_rtn") for bits in (2, 3)), "signround int3g8"]
    assert ran(home) == dict.fromkeys(once, 1)


@pytest.mark.usefixtures("idle")
def test_cells_of_one_key_are_run_once_and_each_is_in_the_table(home: Path, tmp_path: Path) -> None:
    same = {"falls": [{"omniquant": {"format": "int4g8a"}}], "told": [{"rtn": {"format": "int2g8"}}]}
    config = made(home, recipes=same, formats=["int2g8"], models={"one": TINY, "two": TINY}, workers=3)
    (home / "ran").unlink(missing_ok=True)
    told = list[tuple[int, int]]()
    table = Study(config, home, tmp_path / "out").run(lambda done, total, *_: told.append((done, total)))
    assert told == [(i, 8) for i in range(1, 9)]
    assert ran(home) == {"float": 1, "rtn int2g8": 1, "omniquant int4g8a": 1}
    labels = [(f.model, f.recipe, f.format) for f in table.found]
    forms = [("float", ""), ("rtn", "int2g8"), ("falls", ""), ("told", "")]
    assert labels == [(model, *form) for model in ("one", "two") for form in forms]
    assert Study(config, home, tmp_path / "out").run() == table and sum(ran(home).values()) == 3


def test_a_folder_of_something_else_is_left_alone(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds 'mine' and no study"):
        Study(made(home), home, tmp_path).run()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.usefixtures("idle")
def test_a_damaged_cell_is_one_line(home: Path, tmp_path: Path) -> None:
    config = made(home, baseline=None, formats=[], recipes={"x": [{"rtn": {"format": "int4g8"}}]})
    Study(config, home, tmp_path / "out").run()
    for text in ('{"schema": 1, "loss": "x"}', '{"schema": 9}', "{"):
        next((tmp_path / "out" / "cells").iterdir()).write_text(text)
        with pytest.raises(GraphError):
            Study(config, home, tmp_path / "out").run()


# -- what a cell computes ----------------------------------------------------------------------------------------------


def job(home: Path, tmp_path: Path, recipe: str, **changes: Any) -> dict[str, Any]:
    every = cells(made(home, **changes), home)
    cell = next(cell for cell in every if cell.recipe == recipe)
    return {**cell.job, "kept": str(tmp_path / cell.base), "scratch": str(tmp_path / "scratch")}


@pytest.mark.parametrize("window", [16, 24])
def test_a_cell_is_what_the_library_gives(window: int, home: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "evaluation": {"window": window, "tokens": 256},
        "models": {"tiny": {**TINY, "train": {"steps": 3}}},
    }
    changes["calibration"] = {"samples": 1, "length": 16}
    whole = run_cell(job(home, tmp_path, "float", **changes))
    found = run_cell(job(home, tmp_path, "gptq", **changes))
    assert 7 < whole["bits_per_byte"] != found["bits_per_byte"] < 9
    assert found["peak_mib"] > 100 and found["cpu_seconds"] > 0
    assert any("tokens" in note for note in found["notes"])

    from mase.config import TrainConfig
    from mase.training import trained

    data = load("text", {"path": "text.txt", "window": 16}, home)
    assert isinstance(data.test, Passage) and isinstance(data.train, Passage)
    model = trained(lambda: build("llama", TINY["options"]), data, TrainConfig(steps=3), 0)
    scored = perplexity(model, data.test, window, limit=256)
    assert whole["loss"] == pytest.approx(scored.nats / scored.tokens, rel=1e-5)
    rows = data.train.ids[: len(data.train.ids) // 16 * 16].view(-1, 16)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:1]
    graph, report = mase.ptq(trace(model, rows[:2])[0], [{"gptq": {"format": "int3g8"}}], rows[chosen])
    assert (found["stored_bits"], found["paper_bits"]) == (report.stored_bits, report.paper_bits)
    if window == 16:
        assert found["loss"] == perplexity(graph, data.test, 16, limit=256).nats / scored.tokens


@pytest.mark.parametrize("window", [16, 24])
def test_rounded_activations_are_scored_at_any_window(window: int, home: Path, tmp_path: Path) -> None:
    recipe = [{"activations": {"inputs": "int3c", "keys": "int4c"}}, {"rtn": {"format": "int8g8"}}]
    changes: dict[str, Any] = {"evaluation": {"window": window, "tokens": 256}, "recipes": {"rounded": recipe}}
    run_cell(job(home, tmp_path, "float", **changes))
    found = run_cell(job(home, tmp_path, "rounded", **changes))
    plain = run_cell({**job(home, tmp_path, "rounded", **changes), "recipe": recipe[1:]})
    test = load("text", {"path": "text.txt", "window": 16}, home).test
    assert isinstance(test, Passage)
    torch.manual_seed(0)
    graph, _ = trace(build("llama", TINY["options"]).eval(), test.ids[: 2 * window].view(2, window))
    scored = perplexity(mase.ptq(graph, recipe)[0], test, window, limit=256)
    assert found["loss"] == scored.nats / scored.tokens != plain["loss"]


def test_a_folder_is_quantized_from_disk_to_disk(home: Path, tmp_path: Path) -> None:
    from mase.models.huggingface import huggingface
    from tests.ptq.folders import VOCABULARY

    write(home / "model", "llama")
    text = "".join(chr(c) for c in (home / "text.txt").read_bytes() if c < VOCABULARY)
    (home / "ascii.txt").write_text(text)
    changes: dict[str, Any] = {
        "models": {"folder": {"folder": "model", "tokens": "bytes"}},
        "data": {"name": "text", "options": {"path": "ascii.txt", "window": 16}},
        "evaluation": {"window": 20, "tokens": 200},
        "recipes": {"rtn8": [{"rtn": {"format": "int8g16"}}]},
    }
    whole = run_cell(job(home, tmp_path, "float", **changes))
    found = run_cell(job(home, tmp_path, "rtn8", **changes))
    assert found["stored_bits"] > 8 and found["loss"] == pytest.approx(whole["loss"], rel=1e-2)
    assert not (tmp_path / "scratch").exists()
    model = huggingface(str(home / "model"))
    data = load("text", {"path": "ascii.txt", "window": 16}, home)
    assert isinstance(data.test, Passage)
    scored = perplexity(lambda x: model(input_ids=x, use_cache=False).logits, data.test, 20, limit=200)
    assert whole["loss"] == pytest.approx(scored.nats / scored.tokens, rel=1e-5)


def test_a_resumed_folder_cell_counts_what_earlier_calls_took(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "resumed", "llama")
    (home / "low.txt").write_text("some words " * 900)
    changes: dict[str, Any] = {
        "models": {"folder": {"folder": "resumed", "tokens": "bytes"}},
        "data": {"name": "text", "options": {"path": "low.txt", "window": 16}},
        "recipes": {"rtn8": [{"rtn": {"format": "int8g16"}}]},
    }
    run_cell(job(home, tmp_path, "float", **changes))
    asked = job(home, tmp_path, "rtn8", **changes)
    whole = run_cell(asked)
    scratch, note = tmp_path / "scratch", study._Clock.note

    def killed(clock: Any, done: int, *others: object) -> None:
        note(clock, done, *others)
        if done == 3:
            raise KeyboardInterrupt

    scratch.mkdir()
    (scratch / "part-00000.safetensors").write_bytes(b"x")  # of a call that was killed while it deleted
    with monkeypatch.context() as patch:
        patch.setattr(study._Clock, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            run_cell(asked)
    kept = json.loads((scratch / study.SPENT).read_text())
    assert kept["seconds"] > 0
    slow = {"seconds": kept["seconds"] + 1000, "cpu_seconds": kept["cpu_seconds"] + 500, "peak_mib": 1e6}
    (scratch / study.SPENT).write_text(json.dumps(slow))  # as if the first call had been long
    again = run_cell(asked)
    assert again["loss"] == whole["loss"] and not scratch.exists()
    assert slow["seconds"] < again["seconds"] < slow["seconds"] + 100
    assert slow["cpu_seconds"] < again["cpu_seconds"] < slow["cpu_seconds"] + 100
    assert again["peak_mib"] == 1e6


def test_what_a_cell_cannot_do_is_said(home: Path, tmp_path: Path) -> None:
    run_cell(job(home, tmp_path, "float"))
    small = {**TINY, "options": {**TINY["options"], "vocab": 100}}
    with pytest.raises(ConfigError, match="its vocabulary has 100; the text has 256 tokens"):
        run_cell(job(home, tmp_path, "float", models={"tiny": small}))
    with pytest.raises(ConfigError, match="samples of 16 tokens; asked are 9999999"):
        run_cell(job(home, tmp_path, "float", calibration={"samples": 9999999, "length": 16}))
    with pytest.raises(ConfigError, match=r"the text holds \d+ tokens; two windows of 99999 are needed"):
        run_cell({**job(home, tmp_path, "float"), "evaluation": {"window": 99999}})
    with pytest.raises(ConfigError, match="recipe: equalize leaves all weights in float; add a quantizer, such as rtn"):
        run_cell({**job(home, tmp_path, "float"), "recipe": ["equalize"]})


def test_the_command_runs_a_study(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(home, baseline=None, formats=["int4g8"], recipes={"rtn": ["rtn"]}, workers=2)
    arguments = ["study", str(home / "study.yaml"), "--out", str(tmp_path / "out")]
    assert call([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in found["rows"]] == ["float", "rtn"]
    assert found["rows"][1]["peak_mib"] > 100
    assert call(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tiny") and shown.endswith(f"{tmp_path / 'out' / 'report.html'}\n")


CONFIGS = sorted((configs_dir() / "study").glob("*.yaml"))


def ready(path: Path, folder: Path, *overrides: str) -> tuple[studyconfig.StudyConfig, Path]:
    """Load a configuration that comes with the program; a tiny folder stands in for that of SmolLM2."""
    if path.stem == "smollm2":
        write(folder / "model", "llama")
        overrides = (*overrides, f"models.smollm2={{folder: {folder / 'model'}, tokens: bytes}}")
    return studyconfig.load(path, overrides), path.parent


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_ready_configurations_are_studies(path: Path, tmp_path: Path) -> None:
    config, home = ready(path, tmp_path)
    found = cells(config, home)
    assert config.name == path.stem and len(found) > 4
    used = {name for cell in found for step in cell.job["recipe"] for name in step}
    if path.stem == "tiny_llama":  # every method of weights but those of experts, and those that training goes on from
        assert used == set(METHODS) - {"activations", "mc_moe", "qlora", "ir_qlora", "qpeft"}


@pytest.mark.nightly  # each trains a model; the tiny Mixtral's experts are quantized one by one
@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "smollm2"], ids=lambda path: path.stem)
def test_ready_configurations_run(path: Path, tmp_path: Path) -> None:
    few = ("seeds=[0]", "calibration.samples=4", "evaluation.tokens=512")
    config, home = ready(path, tmp_path, *few)
    name, model = next(iter(config.models.items()))
    table = Study(ready(path, tmp_path, *few, f"models.{name}.train.steps=2")[0], home, tmp_path / "out").run()
    assert model.train is not None and not table.failed
    assert len(table.rows) == len(cells(config, home))


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    (block,) = (block for block in blocks(DOCS / "study.md") if block.language == "yaml")
    write(tmp_path / "models" / "llama-1b", "llama")
    small_tokenizer(tmp_path / "models" / "llama-1b" / "tokenizer.json")
    (tmp_path / "study.yaml").write_text(block.text)
    found = cells(studyconfig.load(tmp_path / "study.yaml"), tmp_path)
    assert {cell.format for cell in found if cell.recipe == "billm"} == {""}
