"""MNIST: 70,000 28x28 images of handwritten digits, ten classes."""

from __future__ import annotations

from pathlib import Path

from mase.data.base import DATASETS, Data
from mase.data.idx import read_images


@DATASETS.add("mnist")
def mnist(path: Path) -> Data:
    """Read images ``[n, 1, 28, 28]`` in 0..1 from the published files: 50,000 train, 10,000 validation, 10,000 test.

    Args:
        path: the folder of ``train-images-idx3-ubyte.gz`` and its three companions, packed or not.

    Source: Y. LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    return read_images("mnist", path)
