"""Mixed bits in a recipe: within the budget, alike where tied, the same in memory and from disk to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mase
from mase.calib import delta_loss as whole
from mase.calib.cut import cut
from mase.calib.delta_loss import rounded, stored_bits
from mase.calib.layers import places
from mase.cli import call
from mase.errors import ConfigError, GraphError
from mase.formats import parse
from passes.ptq import allocation
from passes.ptq.allocation import SENSITIVITIES, Question, Whole, weight_error
from passes.ptq.engine import samples_of
from passes.ptq.folder import FOUND, JOURNAL, Job, check, quantize_folder
from passes.ptq.recipe import Plan
from tests.ptq import folders
from tests.ptq.models import graph, tokens

OPTIONS = ["mxint2b16", "mxint3b16", "mxint4b16", "mxint8b16"]
pytestmark = pytest.mark.filterwarnings("ignore:gptq. model")  # few tokens: the figures do not matter here


def question(name: str = "llama", options: list[str] | None = None, **sizes: Any) -> Question:
    made = cut(graph(name, **sizes))
    paths = frozenset(place.path for part in made.blocks for place in places(part.graph))
    formats = tuple(parse(text) for text in options or OPTIONS)
    return Question(Whole(made), samples_of(made.graph, tokens(3)), paths, formats)


def asked(bits: float = 3.6, **others: Any) -> dict[str, Any]:
    return {"options": OPTIONS, "bits": bits, **others}


def chosen(allocate: dict[str, Any], recipe: Any = "rtn", name: str = "llama", **others: Any) -> dict[str, str]:
    """Return the format of each layer."""
    _, report = mase.ptq(graph(name), recipe, tokens(), allocate=allocate, **others)
    assert report.stored_bits <= allocate["bits"] + 1e-9
    return {row.path: row.formats[0] for row in report.layers}


def test_delta_loss_block_by_block_is_that_of_the_whole_model() -> None:
    ask = question()
    found = SENSITIVITIES["delta_loss"](ask)
    keys = [f"{path}.weight" for path in sorted(ask.paths)]
    batches = [env["ids"] for env in ask.samples]
    wanted = whole.delta_loss(graph(), batches, keys, ask.options)
    assert found.keys() == {key.removesuffix(".weight") for key in keys}
    for key in keys:
        assert found[key.removesuffix(".weight")] == pytest.approx(wanted[key], rel=1e-4)
    assert all(row[0] > row[1] > row[2] > row[3] > 0 for row in found.values())


def test_delta_loss_of_experts_is_one_an_expert_and_adds_up() -> None:
    sizes = {"experts": 4, "top": 2}
    ask = question("mixtral", ["mxint2b16"], **sizes)
    found = SENSITIVITIES["delta_loss"](ask)
    keys: dict[str, list[str]] = {}
    for place in places(graph("mixtral", **sizes)):
        if place.path in ask.paths:
            keys.setdefault(place.key, []).append(place.path)
    assert [len(paths) for key, paths in keys.items() if key.endswith(".down")] == [4, 4, 4]
    batches = [env["ids"] for env in ask.samples]
    wanted = whole.delta_loss(graph("mixtral", **sizes), batches, list(keys), ask.options)
    for key, paths in keys.items():
        assert sum(found[path][0] for path in paths) == pytest.approx(wanted[key][0], rel=1e-4)


def test_an_expert_that_loses_nothing_scores_nothing_and_one_that_is_not_reached_the_mean() -> None:
    sizes = {"experts": 4, "top": 1, "layers": 1}
    traced, fmt = graph("mixtral", **sizes), parse("mxint4b16")
    router, down = "blocks.0.feed.router.weight", "blocks.0.feed.experts.down"
    sent = traced.tensors[router].clone()
    sent[2:], sent[0], sent[1] = 0, 1, -1  # one of the first two always has the greatest score
    exact = traced.tensors[down].clone()
    exact[1] = rounded(exact[1], fmt)
    made = cut(traced.replace(tensors={router: sent, down: exact}))
    paths = [place.path for part in made.parts for place in places(part.graph) if place.key == down]
    samples = samples_of(made.graph, tokens(3))
    found = SENSITIVITIES["delta_loss"](Question(Whole(made), samples, frozenset(paths), (fmt,)))
    scores = [found[path][0] for path in paths]
    assert scores[0] > 0 and scores[1] == 0
    assert scores[2] == scores[3] == pytest.approx(scores[0] / 2)
    wanted = whole.delta_loss(made.graph, [env["ids"] for env in samples], [down], [fmt])[down][0]
    assert sum(scores) == pytest.approx(wanted, rel=1e-4)


def test_bits_may_be_charged_as_autoscheme_does() -> None:
    allocate = {"options": ["int2g16f", "int4g16f"], "bits": 4.2, "sensitivity": "mse"}  # scales of 11 bits
    plain = chosen(allocate)
    dearer = chosen({**allocate, "charged": True})
    assert set(plain.values()) == set(dearer.values()) == {"int2g16f", "int4g16f"}
    assert [*dearer.values()].count("int4g16f") < [*plain.values()].count("int4g16f")


def test_errors_of_weights_and_outputs_are_relative() -> None:
    ask = question(options=["mxint2b16", "mxint4b16"])
    weights, outputs = SENSITIVITIES["mse"](ask), SENSITIVITIES["output"](ask)
    path = "blocks.0.attention.query"
    weight = graph().tensors[f"{path}.weight"].double()
    seen = torch.cat([_input(env["ids"]) for env in ask.samples]).double()
    for i, text in enumerate(("mxint2b16", "mxint4b16")):
        error = rounded(weight.float(), parse(text)).double() - weight
        assert weights[path][i] == pytest.approx(float(error.square().sum() / weight.square().sum()), rel=1e-5)
        lost = float((seen @ error.T).square().sum() / (seen @ weight.T).square().sum())
        assert outputs[path][i] == pytest.approx(lost, rel=1e-4)


def _input(ids: torch.Tensor) -> torch.Tensor:
    tables = graph().tensors
    x = tables["embedding.weight"][ids]
    normed = torch.nn.functional.rms_norm(x, x.shape[-1:], tables["blocks.0.norm1.weight"], 1e-6)
    return normed.flatten(0, 1)


@pytest.mark.parametrize("sensitivity", sorted(SENSITIVITIES))
def test_bits_are_mixed_within_the_average(sensitivity: str) -> None:
    found = chosen(asked(3.9, sensitivity=sensitivity))
    assert len(set(found.values())) > 1
    fewer = chosen(asked(3.4, sensitivity=sensitivity))
    assert sum(parse(text).width for text in fewer.values()) < sum(parse(text).width for text in found.values())  # type: ignore[attr-defined]  # integers have one


def test_the_choice_is_the_least_sum_of_scores_within_the_bits() -> None:
    options = ["mxint2b16", "mxint4b16"]
    layers = ["blocks.0.attention.query", "blocks.0.attention.output", "blocks.0.feed.up", "blocks.0.feed.down"]
    rest = [place.path for part in cut(graph()).blocks for place in places(part.graph) if place.path not in layers]
    found = chosen({"options": options, "bits": 3.6, "sensitivity": "mse"}, skip=rest)
    scores = SENSITIVITIES["mse"](question(options=options))
    shapes = {path: tuple(graph().tensors[f"{path}.weight"].shape) for path in layers}
    total = sum(torch.Size(shape).numel() for shape in shapes.values())

    def figures(choice: int) -> tuple[float, int]:
        picks = [choice >> i & 1 for i in range(4)]
        bits = [stored_bits(shapes[path], parse(options[p])) for path, p in zip(layers, picks, strict=True)]
        return sum(scores[path][p] for path, p in zip(layers, picks, strict=True)), sum(bits)

    best = min((c for c in range(16) if figures(c)[1] <= 3.6 * total), key=figures)
    assert [found[path] for path in layers] == [options[best >> i & 1] for i in range(4)]


def test_tied_layers_choose_alike_and_fixed_ones_have_what_is_given() -> None:
    ties = [["query", "key", "value"], ["gate", "up"]]
    found = chosen(asked(3.9, sensitivity="mse", fixed={"*.down": "mxint8b16"}), ties=ties)
    for tie in ties:
        for block in range(3):
            group = {
                text
                for path, text in found.items()
                if path.startswith(f"blocks.{block}.") and path.rpartition(".")[2] in tie
            }
            assert len(group) == 1
    assert {text for path, text in found.items() if path.endswith(".down")} == {"mxint8b16"}


@pytest.mark.parametrize("method", ["gptq", "opt_rtn", "signround"])
def test_any_quantizer_takes_the_formats(method: str) -> None:
    fields = {"signround": {"iters": 2}}.get(method, {})
    found = chosen(asked(3.9), [{method: fields}])
    assert len(set(found.values())) > 1


def test_an_override_keeps_its_method() -> None:
    ask = {"options": ["int2g16", "int3g16", "int4g16"], "bits": 4.2, "sensitivity": "mse"}
    _, report = mase.ptq(graph(), "rtn", tokens(), {"*.down": ["opt_rtn"]}, allocate=ask)
    rows = {row.path: row.formats[0] for row in report.layers}
    assert len(set(rows.values())) > 1 and set(rows.values()) <= {*ask["options"]}
    for path, text in rows.items():
        nearest = rounded(graph().tensors[f"{path}.weight"], parse(text))
        assert torch.equal(report.packed[path].dense(), nearest) != path.endswith(".down")
    down = "blocks.0.feed.down"  # the first block: no other is before it
    rest = [path for path in rows if path != down]
    _, alone = mase.ptq(graph(), [{"opt_rtn": {"format": rows[down]}}], tokens(), skip=rest)
    assert torch.equal(report.packed[down].dense(), alone.packed[down].dense())


@pytest.mark.parametrize(
    ("allocate", "text"),
    [
        (asked(1), r"allocate.bits 1: no choice has so few; the least is [0-9.]+ stored bits a weight"),
        (asked(fixed={"*.down": "mxint5b16"}), "allocate.fixed .*'mxint5b16' is not an option; allowed are mxint2b16"),
        (asked(fixed={"*.dwn": "mxint4b16"}), "allocate.fixed '.*dwn': matches no layer"),
        ({"options": ["mxint2b16", "int4g"], "bits": 3}, r"allocate.options\[1\]: "),
        ({"options": ["mxint2b16", "mxint2b16"], "bits": 3}, "allocate.options: mxint2b16 stands there twice"),
        ({"options": OPTIONS}, "allocate: bits"),
        (asked(sensitivty="mse"), "sensitivty: unknown field; did you mean sensitivity"),
    ],
)
def test_what_cannot_be_allocated_is_one_line(allocate: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        mase.ptq(graph(), "rtn", tokens(), allocate=allocate)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sensitivity", sorted(SENSITIVITIES))
def test_weights_that_are_not_finite_are_refused_before_anything_is_measured(
    sensitivity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "SENSITIVITIES", {})
    key = "blocks.2.feed.up.weight"
    broken = graph().tensors[key].clone()
    broken[3, 5] = float("nan")
    with pytest.raises(ConfigError, match=r"layer blocks\.2\.feed\.up: weights hold NaN or infinity"):
        mase.ptq(graph().replace(tensors={key: broken}), "rtn", tokens(), allocate=asked(sensitivity=sensitivity))


def test_samples_and_formats_are_needed() -> None:
    with pytest.raises(ConfigError, match="allocate: needs calibration data"):
        mase.ptq(graph(), "rtn", allocate=asked())


@pytest.mark.parametrize("recipe", [["mc_moe"], ["awq", "mc_moe"], ["slim_llm", "lqer"]])
def test_folds_and_branches_are_not_what_takes_the_formats(recipe: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"allocate: no quantizer of {', '.join(recipe)} has a field format"):
        Plan.of(recipe, allocate=asked())


def test_every_option_is_tried_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match=r"allocate.options\[1\]: gptq.format: format e4m3 has no groups"):
        Plan.of("gptq", allocate={"options": ["mxint4b16", "e4m3"], "bits": 5})
    with pytest.raises(ConfigError, match=r"allocate.options\[0\]: omniquant.format: format int4g16 has no ranges"):
        Plan.of("rtn", {"*.down": ["omniquant"]}, allocate={"options": ["int4g16", "int4g16a"], "bits": 5})


@pytest.mark.parametrize(
    ("recipe", "form", "bits"),
    [
        (["rtn", {"lqer": {"rank": 4, "format": "mxint8b4"}}], "mxint8b4", 6.5),
        ([{"qlora": {"rank": 4, "branch": "e8m7ieee"}}], "e8m7ieee", 7),
    ],
)
def test_branches_keep_their_format_and_count_in_the_budget(recipe: list[Any], form: str, bits: float) -> None:
    _, report = mase.ptq(graph(), recipe, allocate=asked(bits, sensitivity="mse"))
    assert bits - 1 < report.stored_bits <= bits
    assert len({row.formats[0] for row in report.layers}) > 1
    branches = [part for weight in report.packed.values() for part in weight.branch or ()]
    assert len(branches) == 2 * len(report.layers)
    assert {part.pieces[0].format for part in branches} == {parse(form)}
    rows, columns = 32, 48
    plan = Plan.of(recipe, allocate=asked())
    told = sum(method.extra_bits((rows, columns)) for method in plan.methods("any"))
    down = next(weight for path, weight in report.packed.items() if path.endswith("feed.down"))
    assert down.shape == (rows, columns) and down.branch is not None
    assert told == sum(part.stored_bits() for part in down.branch)


def test_from_disk_to_disk_the_same_formats_are_chosen(tmp_path: Path) -> None:
    from mase.frontend.export import trace_export

    model = folders.write(tmp_path / "model", "llama")
    ids = folders.tokens()
    traced, _ = trace_export(model, {"input_ids": ids[:2]})
    ties = [["q_proj", "k_proj", "v_proj"]]
    _, memory = mase.ptq(traced, "rtn", ids, ties=ties, allocate=asked(3.9))
    np.save(tmp_path / "tokens.npy", ids.numpy())
    config = {
        "model": "model",
        "recipe": ["rtn"],
        "calibration": {"tokens": "tokens.npy", "samples": 5, "length": 8},
        "ties": ties,
        "allocate": asked(3.9),
    }
    (tmp_path / "ptq.yaml").write_text(yaml.safe_dump(config))
    assert call(["ptq", str(tmp_path / "ptq.yaml"), "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {row["path"]: row["formats"][0] for row in report["layers"]}
    assert found == {row.path: row.formats[0] for row in memory.layers}
    assert len(set(found.values())) > 1
    assert report["stored_bits"] <= 3.9
    assert check(tmp_path / "out").ok
    assert call(["ptq", str(tmp_path / "ptq.yaml"), "--out", str(tmp_path / "out"), "--json"]) == 0  # kept


class Stop(Exception):
    pass


def told_at(number: int) -> Any:
    def told(done: int, *_: object) -> None:
        if done == number:
            raise Stop

    return told


def test_a_stopped_run_goes_on_with_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.write(tmp_path / "model", "llama")
    seen = list[int]()  # threads of each scoring

    def spy(ask: Question) -> dict[str, list[float]]:
        seen.append(torch.get_num_threads())
        found = weight_error(ask)
        if len(seen) == 2:
            raise Stop
        return found if len(seen) < 3 else {path: row[:1] * len(row) for path, row in found.items()}

    monkeypatch.setattr(allocation, "SENSITIVITIES", {"mse": spy})
    plan = Plan.of("rtn", allocate=asked(3.9, sensitivity="mse"))
    whole, target, third = (Job(tmp_path / "model", tmp_path / name, plan) for name in ("whole", "stopped", "third"))
    quantize_folder(whole)
    assert quantize_folder(whole).kept == 6 and len(seen) == 1  # finished: nothing is scored
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(Stop):
            quantize_folder(third)
        torch.set_num_threads(threads)
        quantize_folder(third)  # scored again, by the threads of the run before
        assert seen == [threads, threads + 1, threads + 1]
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(allocation, "SENSITIVITIES", {"mse": weight_error})
    with pytest.raises(Stop):
        quantize_folder(target, told_at(2))
    monkeypatch.setattr(allocation, "SENSITIVITIES", {})  # a resumed run measures nothing
    assert quantize_folder(target).kept == 2
    parts = sorted(path.name for path in whole.target.glob("part-*"))
    assert len(parts) == 6
    for name in (*parts, FOUND):
        assert (target.target / name).read_bytes() == (whole.target / name).read_bytes()
    found = json.loads((target.target / FOUND).read_text())
    assert len(set(found["formats"].values())) > 1 and found["allocate"]["bits"] == 3.9


def test_a_target_that_is_not_ours_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.write(tmp_path / "model", "llama")
    monkeypatch.setattr(allocation, "SENSITIVITIES", {})
    (tmp_path / "file").write_text("x")
    job = Job(tmp_path / "model", tmp_path / "file", Plan.of("rtn", allocate=asked(sensitivity="mse")))
    with pytest.raises(ConfigError, match="file: this is a file; a folder is needed"):
        quantize_folder(job)


def test_a_journal_with_other_formats_or_another_question_is_one_line(tmp_path: Path) -> None:
    folders.write(tmp_path / "model", "llama")
    job = Job(tmp_path / "model", tmp_path / "out", Plan.of("rtn", allocate=asked(3.9, sensitivity="mse")))
    with pytest.raises(Stop):
        quantize_folder(job, told_at(1))
    other = Plan.of("rtn", allocate=asked(4, sensitivity="mse"))
    with pytest.raises(ConfigError, match=r"another configuration: allocate.bits was 3.9, is 4.0"):
        quantize_folder(Job(job.source, job.target, other))
    journal = job.target / JOURNAL
    first, chosen, *rest = journal.read_text().splitlines(keepends=True)
    journal.write_text(first + chosen.replace("mxint", "mxuint") + "".join(rest))
    with pytest.raises(GraphError, match=r"journal.jsonl: corrupt: its formats are not those of the layers"):
        quantize_folder(job)
    journal.write_text(first + "".join(rest))
    with pytest.raises(GraphError, match=r"journal.jsonl: corrupt: has parts, and not the formats that allocate chose"):
        quantize_folder(job)


def test_a_budget_that_nothing_meets_leaves_no_folder(tmp_path: Path) -> None:
    folders.write(tmp_path / "model", "llama")
    plan = Plan.of("rtn", allocate=asked(1, sensitivity="mse"))
    with pytest.raises(ConfigError, match=r"allocate.bits 1: no choice has so few"):
        quantize_folder(Job(tmp_path / "model", tmp_path / "out", plan))
    assert not (tmp_path / "out").exists()
