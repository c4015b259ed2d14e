"""scikit-learn's digits: 1,797 real 8x8 images of handwritten digits, ten classes."""

from __future__ import annotations

import numpy as np
import torch

from mase.data.base import DATASETS, Data, Split

SPLIT_SEED = 0  # the split is part of the data set, whatever the seed of the run


@DATASETS.add("digits")
def digits(seed: int = 0) -> Data:  # noqa: ARG001  # real data, one split: no seed moves it
    """Return images ``[n, 1, 8, 8]`` in 0..1, split by class into 64 % train, 16 % validation and 20 % test (360).

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI; as packaged by scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    index = np.arange(len(raw.target))
    rest, test = train_test_split(index, test_size=0.2, stratify=raw.target, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=0.2, stratify=raw.target[rest], random_state=SPLIT_SEED)
    x = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(raw.target, dtype=torch.int64)
    return Data("digits", *(Split(x[part], y[part]) for part in (train, validation, test)))
