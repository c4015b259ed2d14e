"""MNIST and its kin, and CIFAR-10, are read from files in their published layout; damage is told in one line."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mase.data.base import load
from mase.errors import ConfigError


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, packed: bool = True, train: int = 12, test: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Write the four files; return images and labels of train."""
    rng = np.random.default_rng(0)
    arrays = []
    for stem, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            raw = idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
        arrays += [images, labels]
    return arrays[0], arrays[1]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_images_are_read_from_the_published_files(name: str, packed: bool, tmp_path: Path) -> None:
    images, labels = mnist(tmp_path, packed)
    data = load(name, {"path": str(tmp_path)})
    assert [len(p) for p in (data.train, data.validation, data.test)] == [10, 2, 4]
    x = torch.cat((data.train.x, data.validation.x))
    assert torch.equal((x * 255).round().byte(), torch.tensor(images).unsqueeze(1))
    assert torch.equal(torch.cat((data.train.y, data.validation.y)), torch.tensor(labels).long())
    assert x.dtype == torch.float32 and float(x.min()) >= 0.0 and float(x.max()) <= 1.0


def cut(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))


def other_type(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\x0d\x01" + struct.pack(">I", 1) + bytes(4)))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot read"),
        (lambda path: path.write_bytes(b"no gzip"), "cannot read"),
        (cut, "9419 bytes; its header promises 9424"),
        (other_type, "begins with 00000d01; an IDX file of bytes with 000008"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "begins with nothing"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03")), "4 bytes; its header promises 17"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08")), "3 bytes; an IDX file has 4 or more"),
        (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((12, 32, 20), np.uint8)))), r"\(12, 32, 20\) and"),
        (lambda path: path.write_bytes(gzip.compress(idx(np.zeros((5, 28, 28), np.uint8)))), "images and labels are"),
    ],
)
def test_a_damaged_file_is_told(damage: Callable[[Path], None], text: str, tmp_path: Path) -> None:
    mnist(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte.gz")
    with pytest.raises(ConfigError, match=text) as caught:
        load("mnist", {"path": str(tmp_path)})
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def cifar(folder: Path, per_batch: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    batches = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = rng.integers(0, 256, (per_batch, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        (folder / name).write_bytes(rows.tobytes())
        batches[name] = rows
    return batches


def test_cifar_is_read_from_its_binary_version(tmp_path: Path) -> None:
    batches = cifar(tmp_path)
    data = load("cifar10", {"path": str(tmp_path)})
    assert [len(p) for p in (data.train, data.validation, data.test)] == [25, 5, 6]
    first = batches["data_batch_1.bin"][0]
    assert data.train.y[0] == first[0]
    assert data.train.x[0, 1, 2, 3] == first[1 + 1024 + 2 * 32 + 3] / np.float32(255)  # green, row 2, column 3


def test_the_pickled_version_is_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch gone'\ntR.")
    with pytest.raises(ConfigError, match=r"holds pickles; get the binary version, cifar-10-binary.tar.gz"):
        load("cifar10", {"path": str(tmp_path)})


def test_a_damaged_batch_is_told(tmp_path: Path) -> None:
    cifar(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(3072))
    with pytest.raises(ConfigError, match="3072 bytes; a multiple of 3073 is needed"):
        load("cifar10", {"path": str(tmp_path)})
    (tmp_path / "data_batch_2.bin").write_bytes(bytes((10, *bytes(3072))))
    with pytest.raises(ConfigError, match=r"label 10; allowed are 0\.\.9"):
        load("cifar10", {"path": str(tmp_path)})
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(ConfigError, match=r"no data_batch_2.bin; it holds data_batch_1.bin"):
        load("cifar10", {"path": str(tmp_path)})


def test_a_label_beyond_the_classes_is_told(tmp_path: Path) -> None:
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(12, 10, np.uint8))))
    with pytest.raises(ConfigError, match=r"train-images-idx3-ubyte.gz: label 10; allowed are 0\.\.9"):
        load("mnist", {"path": str(tmp_path)})


@pytest.mark.parametrize(("train", "test", "part"), [(0, 4, "train"), (5, 4, "validation"), (12, 0, "test")])
def test_a_split_without_samples_is_told(train: int, test: int, part: str, tmp_path: Path) -> None:
    mnist(tmp_path, train=train, test=test)
    with pytest.raises(ConfigError, match=f"data mnist: no samples are left for {part}"):
        load("mnist", {"path": str(tmp_path)})
