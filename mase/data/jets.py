"""What the two jet-substructure sets share: 16 features, 5 classes, one way to split. Their figures do not compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mase.data.base import Data, Split, standardised
from mase.errors import ConfigError

FEATURES = (
    "zlogz",
    *("c1_b0_mmdt", "c1_b1_mmdt", "c1_b2_mmdt", "c2_b1_mmdt", "c2_b2_mmdt"),
    *("d2_b1_mmdt", "d2_b2_mmdt", "d2_a1_b1_mmdt", "d2_a1_b2_mmdt"),
    *("m2_b1_mmdt", "m2_b2_mmdt", "n2_b1_mmdt", "n2_b2_mmdt"),
    *("mass_mmdt", "multiplicity"),
)
CLASSES = ("g", "q", "w", "z", "t")  # gluon, light quark, W, Z, top
FEWEST = 5  # rows, so that train has two, for a deviation
PUBLISHED_SEED = 42  # of the split that published results use


def jets(name: str, features: NDArray[Any], classes: NDArray[Any]) -> Data:
    """Split rows into 64 % train, 16 % validation and 20 % test, and standardise them by the train split.

    The test split is that of hls4ml's tutorial and of LogicNets: scikit-learn's shuffle with seed 42.
    """
    from sklearn.model_selection import train_test_split

    if len(classes) < FEWEST:
        raise ConfigError(f"data {name}: {len(classes)} rows; a split needs {FEWEST} or more")
    if not np.isfinite(features).all():
        raise ConfigError(f"data {name}: row {int(np.argmin(np.isfinite(features).all(1)))} is not finite")
    rest, test = train_test_split(np.arange(len(classes)), test_size=0.2, random_state=PUBLISHED_SEED)
    train, validation = train_test_split(rest, test_size=0.2, random_state=PUBLISHED_SEED)
    x, y = torch.tensor(features, dtype=torch.float32), torch.tensor(classes, dtype=torch.int64)
    return standardised(Data(name, *(Split(x[part], y[part]) for part in (train, validation, test))))
