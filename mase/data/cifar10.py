"""CIFAR-10: 60,000 32x32 colour images, ten classes, from its binary version."""

from __future__ import annotations

from pathlib import Path

import torch

from mase.data.base import DATASETS, Data, Split, existing
from mase.data.idx import last_held_out
from mase.doors import file
from mase.errors import ConfigError

RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue plane
LARGEST = 1 << 30  # bytes of a file
BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))


@DATASETS.add("cifar10")
def cifar10(path: Path) -> Data:
    """Read images ``[n, 3, 32, 32]`` in 0..1: 40,000 train, 10,000 validation (batch 5), 10,000 test.

    The Python version holds pickles, which can run code when they are read; it is refused.

    Args:
        path: the folder ``cifar-10-batches-bin`` of ``data_batch_1.bin`` .. ``5.bin`` and ``test_batch.bin``.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; binary version.
    """
    if (path / "data_batch_1").is_file():
        raise ConfigError(f"data cifar10: {path}: holds pickles; get the binary version, cifar-10-binary.tar.gz")
    batches = [_read(existing("cifar10", path, (name,))) for name in (*BATCHES, "test_batch.bin")]
    train = Split(torch.cat([b.x for b in batches[:-1]]), torch.cat([b.y for b in batches[:-1]]))
    return last_held_out("cifar10", train, batches[-1], len(batches[-2]))


def _read(path: Path) -> Split:
    raw = file.content(path, LARGEST)
    if not raw or len(raw) % RECORD:
        raise ConfigError(f"data cifar10: {path}: {len(raw)} bytes; a multiple of {RECORD} is needed")
    rows = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, RECORD)
    if int(rows[:, 0].max()) > 9:
        raise ConfigError(f"data cifar10: {path}: label {int(rows[:, 0].max())}; allowed are 0..9")
    return Split(rows[:, 1:].reshape(-1, 3, 32, 32).float() / 255, rows[:, 0].long())
