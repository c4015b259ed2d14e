"""scikit-learn's breast_cancer: 569 tumours, thirty measures of cell nuclei, malignant (0) or benign (1)."""

from __future__ import annotations

from mase.data.base import DATASETS, Data, table


@DATASETS.add("breast_cancer")
def breast_cancer() -> Data:
    """Return standardised features ``[n, 30]``, split by class into 64 % train, 16 % validation and 20 % test.

    Source: W. Wolberg et al., Breast Cancer Wisconsin (Diagnostic), UCI, 1995; as packaged by scikit-learn.
    """
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    return table("breast_cancer", raw.data, raw.target)
