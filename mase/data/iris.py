"""scikit-learn's iris: 150 irises, four measures of each flower, three species."""

from __future__ import annotations

from mase.data.base import DATASETS, Data, table


@DATASETS.add("iris")
def iris() -> Data:
    """Return standardised features ``[n, 4]``, split by class into 64 % train, 16 % validation and 20 % test.

    Source: R. Fisher, The Use of Multiple Measurements in Taxonomic Problems, 1936; as packaged by scikit-learn.
    """
    from sklearn.datasets import load_iris

    raw = load_iris()
    return table("iris", raw.data, raw.target)
