"""Fashion-MNIST: 70,000 28x28 images of clothes, ten classes; files named like those of MNIST."""

from __future__ import annotations

from pathlib import Path

from mase.data.base import DATASETS, Data
from mase.data.idx import read_images


@DATASETS.add("fashion_mnist")
def fashion_mnist(path: Path) -> Data:
    """Read images ``[n, 1, 28, 28]`` in 0..1 from the published files: 50,000 train, 10,000 validation, 10,000 test.

    Args:
        path: the folder of ``train-images-idx3-ubyte.gz`` and its three companions, packed or not.

    Source: H. Xiao et al., Fashion-MNIST, 2017.
    """
    return read_images("fashion_mnist", path)
