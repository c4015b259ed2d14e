"""scikit-learn's digits: 1,797 real 8x8 images of handwritten digits, ten classes."""

from __future__ import annotations

import torch

from mase.data.base import DATASETS, Data, split_by_class


@DATASETS.add("digits")
def digits() -> Data:
    """Return images ``[n, 1, 8, 8]`` in 0..1, split by class into 64 % train, 16 % validation and 20 % test (360).

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI; as packaged by scikit-learn.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    return split_by_class("digits", x, torch.tensor(raw.target, dtype=torch.int64))
