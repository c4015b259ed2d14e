"""From disk to disk: what is written computes what was scored; a killed run goes on, to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mase
from mase.calib.install import install
from mase.cli import call
from mase.errors import ConfigError, GraphError
from mase.frontend.export import trace_export
from passes.ptq import folder as module
from passes.ptq.folder import FOUND, JOURNAL, PROBE, Job, check, load, quantize_folder
from passes.ptq.recipe import Plan
from tests.ptq.folders import LENGTH, VOCABULARY, tokens, write
from tests.ptq.models import Streams

RECIPE = [{"gptq": {"format": "int4g16a", "damp": 0.02}}]
Edit = Callable[[dict[str, Any]], dict[str, Any]]
Lines = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
OVERRIDES = {"*.mlp.down*": {"format": "int8g16"}}
pytestmark = pytest.mark.filterwarnings("ignore:gptq. model")  # few tokens: the figures do not matter here


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write(folder, "llama", torch.bfloat16, "40KB")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def done(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "out"
    quantize_folder(Job(source, folder, Plan.of("rtn")))
    return folder


def job(source: Path, target: Path, count: int = 5) -> Job:
    plan = Plan.of(RECIPE, OVERRIDES, skip=["model.layers.1.self_attn.q_proj"])
    return Job(source, target, plan, tokens(count))


def files(folder: Path) -> dict[str, bytes]:
    """All that must be equal: everything but what says how long it took."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("report.json", JOURNAL)}


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_a_folder_is_what_memory_gives(kind: str, tmp_path: Path) -> None:
    model = write(tmp_path / "source", kind, torch.bfloat16)
    plan = Plan.of(RECIPE, OVERRIDES)
    report = quantize_folder(Job(tmp_path / "source", tmp_path / "out", plan, tokens()))
    x = tokens(2, seed=1)
    graph, rows = mase.ptq(trace_export(model, {"input_ids": x})[0], RECIPE, tokens(), OVERRIDES)
    built = load(tmp_path / "out")
    assert torch.equal(built(x), graph(x))
    assert not torch.equal(built(x), model(x).logits)
    assert [row.path for row in report.layers] == [row.path for row in rows.layers]
    assert report.bits("stored_bits") == rows.stored_bits and report.elements == rows.elements
    found = check(tmp_path / "out")
    assert found.ok and found.layers == len(rows.layers)
    shorter = tokens(2, seed=1)[:, :5]
    assert torch.equal(
        load(tmp_path / "out", 5)(shorter),
        install(trace_export(model, {"input_ids": shorter})[0], rows.packed)(shorter),
    )
    size = sum(p.stat().st_size for p in (tmp_path / "out").glob("part-*"))
    rest = sum(p.numel() for n, p in model.named_parameters() if "proj" not in n)  # in 16 bits, as they were
    assert size < rows.stored_bits * rows.elements / 8 + 2 * rest + 6 * 20_000  # headers of six files


def test_folded_tensors_are_kept_in_float32(tmp_path: Path, source: Path) -> None:
    from dataclasses import dataclass

    from passes.ptq.base import Block, Method
    from tests.ptq.models import Watched

    @dataclass(frozen=True)
    class Scale(Method):
        def run(self, block: Block) -> None:
            (norm,) = [key for key in block.graph.tensors if "post_attention" in key] or [""]
            if norm:
                block.fold({norm: block.graph.tensors[norm] / 3})

    target = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "told", lambda methods: [str(m) for m in methods])
        quantize_folder(Job(source, target, Plan((Scale(), Watched("int8g16"))), tokens()))
    assert check(target).ok
    from safetensors.torch import load_file

    found = load_file(target / "part-00002.safetensors")
    assert found["model.layers.1.post_attention_layernorm.weight"].dtype == torch.float32
    assert found["model.layers.1.input_layernorm.weight"].dtype == torch.bfloat16


def test_a_stopped_run_goes_on_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    quantize_folder(job(source, whole))
    assert set(files(whole)) >= {FOUND, "config.json", "tokenizer.json", "probe.safetensors", "part-00005.safetensors"}

    class Stop(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 3:
            raise Stop

    target = tmp_path / "stopped"
    with pytest.raises(Stop):
        quantize_folder(job(source, target), stop)
    assert not (target / FOUND).exists()
    with (target / JOURNAL).open("a") as journal:
        journal.write('{"number": 3, "na')  # what a crash leaves of a line
    (target / ".part-00003.safetensors.abc").write_bytes(b"half")  # and of a file
    report = quantize_folder(job(source, target))
    assert report.kept == 3 and len(report.layers) == 27
    assert files(target) == files(whole)
    again = quantize_folder(job(source, target))
    assert again.kept == 6 and again.layers == report.layers


def test_a_damaged_part_and_those_behind_it_are_done_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    quantize_folder(job(source, target))
    before = files(target)
    path = target / "part-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(GraphError, match=r"part-00003\.safetensors: damaged, or of another run"):
        check(target)
    assert quantize_folder(job(source, target)).kept == 3
    assert files(target) == before and check(target).ok


def test_both_streams_come_again_after_a_stop(source: Path, tmp_path: Path) -> None:
    plan = Plan((Streams("int4g16f"),))
    seen = []
    for stop in (None, 3):
        Streams.seen.clear()

        def told(done: int, *_: object, stop: int | None = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        made = Job(source, tmp_path / str(stop), plan, tokens(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "told", lambda methods: [str(m) for m in methods])
            if stop:
                with pytest.raises(KeyboardInterrupt):
                    quantize_folder(made, told)
            quantize_folder(made)
        seen.append(list(Streams.seen))
    for (samples, targets), (others, wanted) in zip(*seen, strict=True):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(samples, others, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(targets, wanted, strict=True))


def test_a_check_finds_other_weights_and_other_logits(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    quantize_folder(Job(source, target, Plan.of([{"rtn": {"format": "int4g16"}}])))
    assert check(target).ok
    found = json.loads((target / FOUND).read_text())
    layer = found["parts"][2]["layers"]["model.layers.1.mlp.up_proj"]
    layer["dense"] = "0" * 64
    (target / FOUND).write_text(json.dumps(found))
    from safetensors.torch import load_file, save_file

    probe = load_file(target / "probe.safetensors")
    save_file({**probe, "logits": probe["logits"] + 1}, target / "probe.safetensors")
    report = check(target)
    assert (report.ok, report.scored, report.packed_logits) == (False, ("model.layers.1.mlp.up_proj",), False)
    assert report.worst == pytest.approx(1, abs=1e-5)  # float32
    assert call(["ptq", "check", str(target)]) == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"plan": Plan.of([{"gptq": {"format": "int3g16a", "damp": 0.02}}], OVERRIDES)},
            r"recipe\[0\]\.gptq\.format was",
        ),
        ({"tokens": tokens(4)}, r"samples was 5, is 4"),
        ({"seed": 1}, r"seed was 0, is 1"),
    ],
)
def test_other_work_is_not_gone_on_with(source: Path, tmp_path: Path, change: dict[str, object], text: str) -> None:
    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    with pytest.raises(Stop):
        quantize_folder(job(source, tmp_path), stop)
    before = files(tmp_path)
    made = Job(**{**vars(job(source, tmp_path)), **change})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"holds the work of another configuration: .*{text}"):
        quantize_folder(made)
    assert files(tmp_path) == before


def test_bad_input_is_one_line_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    plain = Plan.of("rtn")
    with pytest.raises(ConfigError, match=r"calibration: the recipe needs calibration data"):
        quantize_folder(Job(source, target, Plan.of(RECIPE)))
    with pytest.raises(ConfigError, match=r"calibration: tokens are 150 to 150; the vocabulary of .* has 150"):
        quantize_folder(Job(source, target, plain, torch.full((1, LENGTH), VOCABULARY)))
    with pytest.raises(ConfigError, match=r"skip '\*\.upp': matches no layer"):
        quantize_folder(Job(source, target, Plan.of("rtn", skip=["*.upp"])))
    with pytest.raises(ConfigError, match=r"skip: all layers stay in float; leave one to quantize"):
        quantize_folder(Job(source, target, Plan.of("rtn", skip=["*"])))
    with pytest.raises(ConfigError, match=r"mc_moe: none of its layers is an expert"):
        quantize_folder(Job(source, target, Plan.of("mc_moe"), tokens()))
    other = tmp_path / "other"
    write(other, "llama")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(GraphError, match=r"down_proj\.weight' has shape \(32, 48\) in the files; config\.json gives"):
        quantize_folder(Job(other, target, plain))
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(GraphError, match=r"the files hold no tensor 'model\.layers\.4\."):
        quantize_folder(Job(other, target, plain))
    assert not target.exists()
    with pytest.raises(ConfigError, match=r"holds '.*' and no quantized model; give an empty folder"):
        quantize_folder(Job(source, other, plain))
    with pytest.raises(GraphError, match=r"ptq\.json: no such file; this is not a quantized folder"):
        check(other)
    write(tmp_path / "tied", "tied")
    with pytest.raises(ConfigError, match=r"layer lm_head: shares its weights with prologue; skip it"):
        quantize_folder(Job(tmp_path / "tied", target, Plan.of("rtn", also=["lm_head"])))


def test_a_model_of_one_block_is_quantized(tmp_path: Path) -> None:
    source, target = tmp_path / "one", tmp_path / "out"
    write(source, "llama", num_hidden_layers=1)
    report = quantize_folder(Job(source, target, Plan.of([{"rtn": {"format": "int4g16"}}])))
    assert len(report.layers) == 7 and check(target).ok


def config(tmp_path: Path, source: Path, **fields: object) -> Path:
    np.save(tmp_path / "tokens.npy", tokens(6).numpy())
    calibration = {"tokens": "tokens.npy", "samples": 4, "length": LENGTH}
    path = tmp_path / "ptq.yaml"
    path.write_text(json.dumps({"model": str(source), "recipe": RECIPE, "calibration": calibration, **fields}))
    return path


def test_the_command_quantizes_and_checks(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = config(tmp_path, source, name="tiny", overrides=OVERRIDES)
    assert call(["ptq", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["folder"]) == Path("runs/tiny") and len(found["layers"]) == 28
    assert call(["ptq", "check", "runs/tiny"]) == 0
    assert "28 of 28 layers are packed as scored" in capsys.readouterr().out
    assert call(["ptq", str(path)]) == 0
    assert "6 parts were done before" in capsys.readouterr().out
    for arguments, text in (
        (["ptq", "check"], "ptq check: the folder is missing"),
        (["ptq", str(path), "runs/tiny"], "allowed is CONFIG, check FOLDER, export FOLDER"),
        (["ptq", str(path), "--set", "recipe=[gtpq]"], "recipe[0]: unknown method 'gtpq'; did you mean gptq?"),
        (["ptq", str(path), "--set", "skipp=[a]"], "skipp: unknown field; did you mean skip?"),
        (["ptq", str(path), "--set", "calibration.samples=7"], "holds 6 samples of 8 tokens; calibration.samples is 7"),
        (["ptq", str(path), "--set", "calibration.text=a.txt"], "calibration: give either text or tokens"),
        (["ptq", str(path), "--set", "model=nowhere"], "nowhere: no such folder"),
    ):
        assert call(arguments) == 2
        error = capsys.readouterr().err
        assert text in error and error.count("\n") == 1


def test_a_text_gives_windows_drawn_by_a_seed(source: Path, tmp_path: Path) -> None:
    from mase.flow import ptq_job

    (tmp_path / "a.txt").write_text("0123456789" * 10)
    calibration = {"text": "a.txt", "tokenizer": "bytes", "samples": 4, "length": LENGTH}
    path = config(tmp_path, source, calibration=calibration)
    first, same, other = (ptq_job(path, None, [f"seed={seed}"]).tokens for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    windows = ["".join(map(chr, row)) for row in first.tolist()]
    text = "0123456789" * 10
    assert all(text.index(window) % 2 == 0 and len(window) == LENGTH for window in windows)


def without(name: str) -> Edit:
    return lambda data: {key: value for key, value in data.items() if key != name}


def part(place: int, **fields: object) -> Edit:
    def changed(data: dict[str, Any]) -> dict[str, Any]:
        parts = [{**one, **fields} if i == place else one for i, one in enumerate(data["parts"])]
        return {**data, "parts": parts}

    return changed


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (without("threads"), r"ptq\.json: threads: is missing"),
        (lambda data: {**data, "threads": 0}, r"ptq\.json: threads: found 0; input should be greater than 0"),
        (lambda data: {**data, "length": "a"}, r"ptq\.json: length: found 'a'"),
        (
            lambda data: {**data, "parts": data["parts"][:-1]},
            r"ptq\.json: has 5 parts; the model of config\.json has 6",
        ),
        (without("parts"), r"ptq\.json: .*found None; input should be a valid array"),
        (part(1, layers=3), r"ptq\.json: 1\.layers: found 3"),
        (part(1, file="../a"), r"ptq\.json: corrupt: part 1 of file '\.\./a' stands in place 1"),
        (part(1, number=2), r"ptq\.json: corrupt: part 2 of file 'part-00001\.safetensors' stands in place 1"),
        (part(1, borrowed={"a": 1}), r"ptq\.json: corrupt: part 1 "),
        (part(1, floats={"a": "float32"}), r"part-00001\.safetensors: holds no tensor 'a'"),
    ],
)
def test_a_changed_description_is_one_line(done: Path, tmp_path: Path, edit: Edit, text: str) -> None:
    copied = Path(shutil.copytree(done, tmp_path / "out"))
    (copied / FOUND).write_text(json.dumps(edit(json.loads((copied / FOUND).read_text()))))
    with pytest.raises(GraphError, match=text):
        check(copied)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda lines: [without("threads")(lines[0]), *lines[1:]], r"journal\.jsonl: threads: is missing"),
        (lambda lines: [lines[0], without("sha256")(lines[1])], r"journal\.jsonl: 0\.sha256: is missing"),
        (lambda lines: [*lines[:2], without("report")(lines[2])], r"journal\.jsonl: corrupt: part 1 has 7 layers, 0 "),
        (lambda lines: [*lines[:2], lines[1]], r"journal\.jsonl: corrupt: part 0 of file .* stands in place 1"),
    ],
)
def test_a_changed_journal_is_one_line(source: Path, done: Path, tmp_path: Path, edit: Lines, text: str) -> None:
    copied = Path(shutil.copytree(done, tmp_path / "out"))
    lines = [json.loads(line) for line in (copied / JOURNAL).read_text().splitlines()]
    (copied / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in edit(lines)))
    with pytest.raises(GraphError, match=text):
        quantize_folder(Job(source, copied, Plan.of("rtn")))


def test_a_lost_probe_is_made_again_and_another_one_is_refused(source: Path, done: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(done, tmp_path / "out"))
    save_file({"a": torch.zeros(1)}, copied / PROBE)
    with pytest.raises(GraphError, match=r"probe\.safetensors: holds a; needed are logits, tokens"):
        check(copied)
    (copied / PROBE).unlink()
    quantize_folder(Job(source, copied, Plan.of("rtn")))
    assert check(copied).ok and files(copied) == files(done)


def test_folders_beside_the_tokenizer_are_not_copied(source: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(source, tmp_path / "model"))
    (model / "tokenizer_old").mkdir()
    quantize_folder(Job(model, tmp_path / "out", Plan.of("rtn")))
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / "tokenizer_old").exists()


def test_tokens_without_length_are_refused(source: Path, tmp_path: Path) -> None:
    from mase.flow import ptq_job

    path = config(tmp_path, source)
    np.save(tmp_path / "tokens.npy", np.zeros((4, 0), np.int64))
    with pytest.raises(ConfigError, match=r"found int64 \(4, 0\); integers \[samples, length\] are needed"):
        ptq_job(path)


@pytest.mark.slow  # three processes that import PyTorch and transformers
def test_a_killed_process_goes_on_to_the_same_bytes(source: Path, tmp_path: Path) -> None:
    path = config(tmp_path, source)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "mase", "ptq", str(path), "--out"]
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    random = np.random.default_rng(0)
    for _ in range(2):
        wanted, lines = int(random.integers(2, 6)), 0
        child = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and lines < wanted:
            lines = (killed / JOURNAL).read_bytes().count(b"\n") if (killed / JOURNAL).exists() else 0
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.2))
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
    subprocess.run([*command, str(killed)], check=True, capture_output=True)
    assert files(killed) == files(whole)
