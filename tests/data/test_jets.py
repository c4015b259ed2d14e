"""The two jet sets are read from their own layouts, kept apart by name, and split as published results are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mase.data.base import load
from mase.data.jets import CLASSES, FEATURES, jets
from mase.errors import ConfigError, ToolError

ROWS = 200


def table(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(3.0, 2.0, (ROWS, len(FEATURES))), rng.integers(0, 5, ROWS)


def arff(path: Path, features: np.ndarray, classes: np.ndarray) -> None:
    head = ["% a comment", "@RELATION jets", "", *(f"@ATTRIBUTE {name} REAL" for name in FEATURES)]
    rows = [",".join([*map(repr, map(float, row)), CLASSES[c]]) for row, c in zip(features, classes, strict=True)]
    path.write_text("\n".join([*head, "@ATTRIBUTE class {g,q,t,w,z}", "", "@DATA", *rows]) + "\n")


def csv(path: Path, features: np.ndarray, classes: np.ndarray) -> None:
    names = [f'"{name}"' for name in (*reversed(FEATURES), "class")]  # order of columns is free
    rows = [
        ",".join([*map(repr, map(float, row[::-1])), f"'{CLASSES[c]}'"])
        for row, c in zip(features, classes, strict=True)
    ]
    path.write_text("\n".join([",".join(names), *rows]) + "\n")


def published(features: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and classes of the test split that published results use, before they are standardised."""
    from sklearn.model_selection import train_test_split

    _, x, _, y = train_test_split(features, classes, test_size=0.2, random_state=42)
    return x, y


@pytest.mark.parametrize("write", [arff, csv])
def test_openml_is_read_and_split_as_published(write: object, tmp_path: Path) -> None:
    features, classes = table()
    path = tmp_path / f"jets.{write.__name__}"  # type: ignore[attr-defined]
    write(path, features, classes)  # type: ignore[operator]
    data = load("jets_openml", {"path": str(path)})
    x, y = published(features, classes)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [128, 32, 40]
    assert torch.equal(data.test.y, torch.tensor(y))
    scale = (data.test.x[1:] - data.test.x[:1]) / torch.tensor(x[1:] - x[:1], dtype=torch.float32)
    assert torch.allclose(scale, scale[:1].expand_as(scale), rtol=1e-3)  # the same rows, shifted and scaled
    assert torch.allclose(data.train.x.mean(0), torch.zeros(16), atol=1e-6)
    assert torch.allclose(data.train.x.std(0), torch.ones(16), atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("@DATA", "@NOTHING", "no @data line"),
        ("zlogz", "zlog", "no column 'zlogz'; found: zlog, c1_b0_mmdt"),
        (",g\n", ",h\n", "row"),
        (",g\n", ",1.0,g\n", "columns changed from 17 to 18"),
        (",g\n", ",?\n", "row"),
    ],
)
def test_damage_of_openml_is_told_in_one_line(old: str, new: str, text: str, tmp_path: Path) -> None:
    arff(tmp_path / "jets.arff", *table())
    whole = (tmp_path / "jets.arff").read_text()
    (tmp_path / "jets.arff").write_text(whole.replace(old, new, 1))
    with pytest.raises(ConfigError, match=text) as caught:
        load("jets_openml", {"path": str(tmp_path / "jets.arff")})
    assert "\n" not in str(caught.value)
    assert "jets.arff" in str(caught.value)


def test_what_is_not_finite_is_told(tmp_path: Path) -> None:
    features, classes = table()
    features[7, 3] = np.nan
    arff(tmp_path / "jets.arff", features, classes)
    with pytest.raises(ConfigError, match="row 7 is not finite"):
        load("jets_openml", {"path": str(tmp_path / "jets.arff")})


def h5(path: Path, features: np.ndarray, classes: np.ndarray, name: str = "t_allpar_new") -> None:
    import h5py

    marks = np.eye(5)[classes]
    names = [f"j_{n}" for n in (*FEATURES, *CLASSES)]
    rows = np.zeros(len(features), dtype=[("index", "i8"), *((n, "f8") for n in names)])
    for n, column in zip(names, [*features.T, *marks.T], strict=True):
        rows[n] = column
    with h5py.File(path, "w") as file:
        file.create_dataset(name, data=rows)


def test_cernbox_is_read_and_repeated_rows_count_once(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra data")
    features, classes = table()
    h5(tmp_path / "jets.z", np.concatenate((features, features[:30])), np.concatenate((classes, classes[:30])))
    data = load("jets_cernbox", {"path": str(tmp_path / "jets.z")})
    assert sum(len(p) for p in (data.train, data.validation, data.test)) == ROWS
    assert torch.equal(data.test.y, torch.tensor(published(features, classes)[1]))


def test_cernbox_reads_a_folder_of_files(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra data")
    features, classes = table()
    h5(tmp_path / "a.h5", features[:90], classes[:90])
    h5(tmp_path / "b.h5", features[90:], classes[90:])
    h5(tmp_path / "whole.h5", features, classes)
    whole = load("jets_cernbox", {"path": str(tmp_path / "whole.h5")})
    (tmp_path / "whole.h5").unlink()
    assert load("jets_cernbox", {"path": str(tmp_path)}).digest() == whole.digest()


def test_damage_of_cernbox_is_told_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra data")
    features, classes = table()
    h5(tmp_path / "other.h5", features, classes, name="table")
    (tmp_path / "text.h5").write_text("no HDF5")
    for path, text in (
        ("other.h5", "no table 't_allpar_new'; found: table"),
        ("text.h5", "cannot read"),
        ("no.h5", "cannot"),
    ):
        with pytest.raises(ConfigError, match=text) as caught:
            load("jets_cernbox", {"path": str(tmp_path / path)})
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no file that ends in .h5 or .hdf5 or .z; it holds nothing"):
        load("jets_cernbox", {"path": str(tmp_path / "empty")})


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ToolError, match=r"data jets_cernbox needs the package h5py .*pip install 'mase-dse\[data\]'"):
        load("jets_cernbox", {"path": str(tmp_path / "jets.h5")})


@pytest.mark.parametrize(("count", "text"), [(0, "holds no rows"), (1, "1 rows; a split needs 5"), (4, "4 rows")])
def test_too_few_rows_are_told(count: int, text: str, tmp_path: Path) -> None:
    features, classes = table()
    arff(tmp_path / "jets.arff", features[:count], classes[:count])
    with pytest.raises(ConfigError, match=text):
        load("jets_openml", {"path": str(tmp_path / "jets.arff")})


def test_what_is_not_finite_is_told_of_either_set() -> None:
    features, classes = table()
    features[7, 3] = np.nan
    with pytest.raises(ConfigError, match="data jets_cernbox: row 7 is not finite"):
        jets("jets_cernbox", features, classes)


@pytest.mark.parametrize(
    ("form", "text"), [("group", "is not a table"), ("words", "'j_zlogz' is |S3; numbers are needed")]
)
def test_a_table_of_another_kind_is_told(form: str, text: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra data")
    names = [f"j_{name}" for name in (*FEATURES, *CLASSES)]
    with h5py.File(tmp_path / "jets.h5", "w") as file:
        if form == "group":
            file.create_group("t_allpar_new")
        else:
            file["t_allpar_new"] = np.zeros(6, dtype=[(name, "S3") for name in names])
    with pytest.raises(ConfigError, match=re.escape(text)):
        load("jets_cernbox", {"path": str(tmp_path / "jets.h5")})
