"""scikit-learn's diabetes: 442 patients, ten measures, how far the disease went in a year: a regression."""

from __future__ import annotations

import torch

from mase.data.base import DATASETS, Data, split_at_random, standardised


@DATASETS.add("diabetes")
def diabetes() -> Data:
    """Return standardised features ``[n, 10]`` and the value ``[n, 1]`` in hundreds, split at random 64 / 16 / 20 %.

    Source: B. Efron et al., Least Angle Regression, 2004; as packaged by scikit-learn, unscaled.
    """
    from sklearn.datasets import load_diabetes

    raw = load_diabetes(scaled=False)
    x = torch.tensor(raw.data, dtype=torch.float32)
    y = torch.tensor(raw.target, dtype=torch.float32).unsqueeze(1) / 100
    return standardised(split_at_random("diabetes", x, y, "values"))
