"""A folder that the package datasets saved is read: images, numbers, text; with its own splits or new ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mase.data.base import load
from mase.errors import ConfigError, ToolError


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets", reason="needs the extra data")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ToolError, match=r"data arrow needs the package datasets .*pip install 'mase-dse\[data\]'"):
        load("arrow", {"path": str(tmp_path), "inputs": "x"})


def test_own_splits_are_kept(datasets: Any, tmp_path: Path) -> None:
    def part(count: int, start: float) -> Any:
        rows = [[start + i, -1.0, 0.5] for i in range(count)]
        return datasets.Dataset.from_dict({"x": rows, "label": [i % 3 for i in range(count)]})

    sets = {"train": part(12, 0.0), "validation": part(6, 100.0), "test": part(3, 200.0)}
    datasets.DatasetDict(sets).save_to_disk(str(tmp_path))
    data = load("arrow", {"path": str(tmp_path), "inputs": "x", "labels": "label"})
    assert [len(p) for p in (data.train, data.validation, data.test)] == [12, 6, 3]
    assert data.test.x.tolist() == [[200.0 + i, -1.0, 0.5] for i in range(3)]
    assert data.test.y.tolist() == [0, 1, 2]
    assert (data.test.x.dtype, data.test.y.dtype) == (torch.float32, torch.int64)


def test_images_get_channels_first_and_other_splits_are_made(datasets: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=2)})
    rows = {"img": list(pixels), "label": [i % 2 for i in range(50)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path))
    data = load("arrow", {"path": str(tmp_path), "inputs": "img", "labels": "label"})
    assert [len(p) for p in (data.train, data.validation, data.test)] == [32, 8, 10]
    assert data.test.x.shape == (10, 3, 6, 5)
    known = {row.transpose(2, 0, 1).tobytes() for row in pixels}
    assert all((x * 255).round().byte().numpy().tobytes() in known for x in data.test.x)


def test_text_becomes_passages(datasets: Any, tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": [f"document {i} " * 9 for i in range(40)]}).save_to_disk(str(tmp_path))
    data = load("arrow", {"path": str(tmp_path), "inputs": "text", "window": 8})
    assert data.task == "tokens" and data.tokenizer is not None
    assert data.tokenizer.decode(data.test.x[0].tolist()) == "document"
    assert b"document 19 " in bytes(data.test.x.flatten().tolist())


def test_what_cannot_be_used_is_told_in_one_line(datasets: Any, tmp_path: Path) -> None:
    rows = {"x": [[1.0], [2.0, 3.0]], "name": ["a", "b"], "value": [0.5, 1.5], "y": [0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "d"))
    for options, text in (
        ({"inputs": "z", "labels": "y"}, "no column 'z'; allowed: name, value, x, y"),
        ({"inputs": "valu", "labels": "y"}, r"no column 'valu'; did you mean value\?"),
        ({"inputs": "x", "labels": "y"}, "column 'x' does not hold numbers of one shape"),
        ({"inputs": "value", "labels": "name"}, "column 'name' does not hold numbers of one shape"),
        ({"inputs": "value"}, "column 'value' does not hold text; for classes name the column `labels`"),
        ({"inputs": "y", "labels": "value"}, r"column 'value' is float.* classes are integers \[n\]"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            load("arrow", {"path": str(tmp_path / "d"), **options})
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="save_to_disk did not write this folder"):
        load("arrow", {"path": str(tmp_path / "empty"), "inputs": "x"})
