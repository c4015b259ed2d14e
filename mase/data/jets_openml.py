"""Jet substructure as OpenML has it: set 42468, hls4ml_lhc_jets_hlf, about 830,000 jets. Not the set of CERNBox."""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mase.data.base import DATASETS, Data
from mase.data.jets import CLASSES, FEATURES, jets
from mase.errors import ConfigError

ATTRIBUTE = re.compile(r"@attribute\s+['\"]?([^\s'\"]+)", re.IGNORECASE)


@DATASETS.add("jets_openml")
def jets_openml(path: Path) -> Data:
    """Read standardised features ``[n, 16]`` and five classes (g, q, w, z, t) from an ARFF or a CSV file.

    Args:
        path: the ``.arff`` file of OpenML's set 42468, or a ``.csv`` with the same columns and a header.

    Source: M. Pierini et al., HLS4ML LHC Jet dataset (high-level features), 2020; split as in hls4ml's tutorial.
    """
    names, skip = _head(path)
    missing = [name for name in (*FEATURES, "class") if name not in names]
    if missing:
        raise ConfigError(
            f"data jets_openml: {path}: no column {missing[0]!r}; found: {', '.join(names[:20]) or 'none'}"
        )
    rows = _rows(path, skip, names.index("class"))
    return jets("jets_openml", rows[:, [names.index(name) for name in FEATURES]], rows[:, names.index("class")])


def _head(path: Path) -> tuple[list[str], int]:
    """Return the names of the columns, and how many lines stand before the first row."""
    names: list[str] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if path.suffix.lower() == ".csv":
                    return next(csv.reader([line])), number
                if line.strip().lower() == "@data":
                    return names, number
                if found := ATTRIBUTE.match(line.strip()):
                    names.append(found[1])
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data jets_openml: {path}: cannot read: {error}") from None
    raise ConfigError(f"data jets_openml: {path}: no @data line; needed is an ARFF file, or a .csv with a header")


def _rows(path: Path, skip: int, label: int) -> NDArray[Any]:
    """Return all columns as numbers, the class as its index."""

    def index(text: str) -> float:
        return float(CLASSES.index(text.strip().strip("'\"")))

    try:
        with path.open(encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy about a file without rows, which is refused here
            found = np.loadtxt(file, delimiter=",", comments="%", skiprows=skip, converters={label: index}, ndmin=2)
    except ValueError as error:
        raise ConfigError(f"data jets_openml: {path}: {' '.join(str(error).split())[:160]}") from None
    if not len(found):
        raise ConfigError(f"data jets_openml: {path}: holds no rows")
    if not np.isfinite(found).all():
        raise ConfigError(f"data jets_openml: {path}: row {int(np.argmin(np.isfinite(found).all(1)))} is not finite")
    return found
