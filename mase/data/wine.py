"""scikit-learn's wine: 178 wines, thirteen chemical measures, three cultivars."""

from __future__ import annotations

from mase.data.base import DATASETS, Data, table


@DATASETS.add("wine")
def wine() -> Data:
    """Return standardised features ``[n, 13]``, split by class into 64 % train, 16 % validation and 20 % test.

    Source: M. Forina et al., Wine, UCI, 1991; as packaged by scikit-learn.
    """
    from sklearn.datasets import load_wine

    raw = load_wine()
    return table("wine", raw.data, raw.target)
