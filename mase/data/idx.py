"""Read files in the IDX layout of MNIST and its kin, packed by gzip or not."""

from __future__ import annotations

import gzip
import io
import itertools
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mase.data.base import Data, Split, existing
from mase.doors import file
from mase.errors import ConfigError, said

BYTES = 0x08  # the type code of unsigned bytes, the only one that these sets use
LARGEST, PART = 1 << 30, 1 << 20  # bytes, unpacked: in all, and at a time
SIZE, CLASSES = (28, 28), 10
VALIDATION = 10_000  # the last images of the train files
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def read_idx(name: str, path: Path) -> Tensor:
    """Return the array of unsigned bytes that a file holds.

    Raises:
        ConfigError: the file is damaged, truncated, or holds another type.

    Source: Y. LeCun, The MNIST Database of Handwritten Digits, file formats.
    """
    raw = file.content(path, LARGEST)
    if path.suffix == ".gz":
        try:
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = b"".join(itertools.islice(iter(lambda: packed.read(PART), b""), LARGEST // PART))
        except Exception as error:  # noqa: BLE001  # of gzip and of zlib
            raise ConfigError(f"data {name}: {path}: cannot read: {said(error)}") from None
    if raw[:3] != bytes((0, 0, BYTES)):
        raise ConfigError(
            f"data {name}: {path}: begins with {raw[:4].hex() or 'nothing'}; an IDX file of bytes with 000008"
        )
    if len(raw) < 4:
        raise ConfigError(f"data {name}: {path}: {len(raw)} bytes; an IDX file has 4 or more")
    start = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:start]) if len(raw) >= start else ()
    told = start + math.prod(shape)
    if len(raw) != told or math.prod(n or 1 for n in shape) > LARGEST:
        raise ConfigError(f"data {name}: {path}: {len(raw)} bytes; its header promises {told}, {str(shape)[:60]}")
    return torch.from_numpy(np.frombuffer(bytearray(raw[start:]), dtype=np.uint8)).reshape(shape)


def read_images(name: str, folder: Path) -> Data:
    """Return images ``[n, 1, 28, 28]`` in 0..1 of the published files; the last 10,000 of train are validation.

    Raises:
        ConfigError: a file is absent or damaged, or images and labels are not as many.
    """
    paths = [existing(name, folder, (f"{file}.gz", file, file.replace("-idx", ".idx"))) for file in FILES]
    arrays = [read_idx(name, path) for path in paths]
    for path, images, labels in zip(paths[::2], arrays[::2], arrays[1::2], strict=True):
        if images.shape[1:] != SIZE or labels.dim() != 1 or len(images) != len(labels):
            shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
            raise ConfigError(f"data {name}: {path}: images and labels are {shapes}; [n, 28, 28] and [n] are needed")
        if labels.numel() and int(labels.max()) >= CLASSES:
            raise ConfigError(f"data {name}: {path}: label {int(labels.max())}; allowed are 0..{CLASSES - 1}")
    train, test = (
        Split(x.unsqueeze(1).float() / 255, y.long()) for x, y in zip(arrays[::2], arrays[1::2], strict=True)
    )
    return last_held_out(name, train, test, VALIDATION)


def last_held_out(name: str, train: Split, test: Split, count: int) -> Data:
    """Return data whose validation split is the last ``count`` samples of train, at most the last sixth."""
    cut = len(train) - min(count, len(train) // 6)
    return Data(name, Split(train.x[:cut], train.y[:cut]), Split(train.x[cut:], train.y[cut:]), test)
