from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from emit.samples import load_samples
from mase.errors import ConfigError

SHAPE = (2, 3)
X = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3) / 8 - 1


def written(path: Path, x: Tensor = X) -> Path:
    array = x.numpy()
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez(path, x=array, y=np.zeros(4))
    elif path.suffix == ".safetensors":
        save_file({"inputs": x.contiguous(), "labels": torch.zeros(4)}, path)
    else:
        rows = array.reshape(len(array), -1)
        path.write_text("".join(",".join(map(repr, map(float, row))) + "\n" for row in rows))
    return path


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_samples(path, SHAPE)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv", ".CSV"])
def test_each_kind_of_file_gives_the_same_samples(tmp_path: Path, suffix: str) -> None:
    found = load_samples(written(tmp_path / f"data{suffix}"), SHAPE)
    assert found.dtype == torch.float32
    assert torch.equal(found, X)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint8, np.int64, np.bool_])
def test_numbers_of_any_type_become_float32(tmp_path: Path, dtype: type) -> None:
    array = np.array([[0, 1, 1, 0, 1, 0]], dtype)
    np.save(tmp_path / "x.npy", array)
    found = load_samples(tmp_path / "x.npy", SHAPE)
    assert (found.dtype, found.flatten().tolist()) == (torch.float32, [0, 1, 1, 0, 1, 0])


def test_rows_of_elements_and_one_bare_sample_are_taken(tmp_path: Path) -> None:
    assert torch.equal(load_samples(written(tmp_path / "flat.npy", X.reshape(4, 6)), SHAPE), X)
    assert torch.equal(load_samples(written(tmp_path / "one.npy", X[0]), SHAPE), X[:1])


def test_a_csv_may_begin_with_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\ufeffa,b,c,d,e,f\n1,2,3,4,5,6\n\n-1e-3,0,0,0,0,.5\n")
    assert load_samples(tmp_path / "x.csv", SHAPE)[1].flatten().tolist() == pytest.approx([-1e-3, 0, 0, 0, 0, 0.5])


def test_one_array_is_meant_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", anything=X.numpy())
    assert torch.equal(load_samples(tmp_path / "x.npz", SHAPE), X)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.txt", "1", "found the suffix '.txt'; allowed: .npy, .npz, .safetensors, .csv"),
        ("x.csv", "1,2,3\n4,x\n", "line 2: has 2 columns; the lines before have 3"),
        ("x.csv", "a,b\n1,2\n4,x'\n", 'line 3, column 2: found "x\'"; a number is needed'),
        ("x.csv", "1,2,3\n", "found shape (1, 3); allowed is (samples, 2, 3), or rows of 6"),
        ("x.csv", "1,2,3,4,nan,6\n", "NaN at 1 of 6 places, first in sample 0, element 4"),
        ("x.csv", "", "holds no sample"),
        ("x.csv", "a,b,c\n", "holds no sample"),
        ("x.npy", "garbage", "not an array of NumPy"),
        ("x.npy", "", "not an array of NumPy"),
        ("x.npz", "garbage", "not a .npz file"),
        ("x.npz", "PK\x03\x04", "not a .npz file"),
        ("x.safetensors", "garbage", "not a safetensors file"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    assert said in refused(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, suffix: str) -> None:
    assert "no such file" in refused(tmp_path / f"gone{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    assert "cannot read" in refused(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"x{suffix}")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path)


def test_a_damaged_member_of_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00")
    assert "array 'x': this is not an array of NumPy" in refused(tmp_path / "x.npz")


@pytest.mark.parametrize("array", [np.array([["a"] * 6]), np.zeros((1, 6), complex), np.zeros((1, 6), "datetime64[s]")])
def test_what_is_no_real_number_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert "an array of real numbers is needed" in refused(tmp_path / "x.npy")


def test_a_complex_tensor_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1, 6, dtype=torch.complex64)}, tmp_path / "x.safetensors")
    assert "an array of real numbers is needed" in refused(tmp_path / "x.safetensors")


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    (tmp_path / "x.npy").write_bytes(file.getvalue())
    assert "found Python objects" in refused(tmp_path / "x.npy")


def test_several_arrays_without_a_usual_name_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X.numpy(), b=X.numpy())
    assert "holds the arrays 'a', 'b'; allowed is one, or one called x, input, inputs, data" in refused(
        tmp_path / "x.npz"
    )
    np.savez(tmp_path / "x.npz", x=X.numpy(), input=X.numpy())
    assert "holds the arrays 'input', 'x'" in refused(tmp_path / "x.npz")


def test_a_bare_array_called_npz_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, X.numpy())
    assert "one bare array" in refused(tmp_path / "x.npz")


def test_an_archive_called_npy_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, x=X.numpy())
    assert "an array of real numbers is needed" in refused(tmp_path / "x.npy")


def test_shapes_that_only_have_the_right_count_are_refused(tmp_path: Path) -> None:
    assert "found shape (4, 3, 2)" in refused(written(tmp_path / "x.npy", X.reshape(4, 3, 2)))
    assert "found shape (24,)" in refused(written(tmp_path / "y.npy", X.flatten()))
    assert "holds no sample" in refused(written(tmp_path / "z.npy", X[:0]))
