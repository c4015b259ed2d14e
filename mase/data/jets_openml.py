"""Jet substructure as OpenML has it: set 42468, hls4ml_lhc_jets_hlf, about 830,000 jets. Not the set of CERNBox."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mase.data.base import DATASETS, Data
from mase.data.jets import CLASSES, FEATURES, jets
from mase.doors import file
from mase.errors import ConfigError, said

LARGEST = 1 << 32  # bytes of a file
ATTRIBUTE = re.compile(r"@attribute\s+['\"]?([^\s'\"]+)", re.IGNORECASE)


@DATASETS.add("jets_openml")
def jets_openml(path: Path) -> Data:
    """Read standardised features ``[n, 16]`` and five classes (g, q, w, z, t) from an ARFF or a CSV file.

    Args:
        path: the ``.arff`` file of OpenML's set 42468, or a ``.csv`` with the same columns and a header.

    Source: M. Pierini et al., HLS4ML LHC Jet dataset (high-level features), 2020; split as in hls4ml's tutorial.
    """
    lines = file.text(path, LARGEST).splitlines()
    names, skip = _head(path, lines)
    missing = [name for name in (*FEATURES, "class") if name not in names]
    if missing:
        raise ConfigError(
            f"data jets_openml: {path}: there is no column {missing[0]!r}; found: {', '.join(names[:20]) or 'none'}"
        )
    rows = _rows(path, lines, skip, names.index("class"))
    return jets("jets_openml", rows[:, [names.index(name) for name in FEATURES]], rows[:, names.index("class")])


def _head(path: Path, lines: Sequence[str]) -> tuple[list[str], int]:
    """Return the names of the columns, and how many lines stand before the first row."""
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        if path.suffix.lower() == ".csv":
            return [name.strip().strip('"') for name in line.split(",")], number
        if line.strip().lower() == "@data":
            return names, number
        if found := ATTRIBUTE.match(line.strip()):
            names.append(found[1])
    raise ConfigError(
        f"data jets_openml: {path}: there is no @data line; an ARFF file, or a .csv with a header, is needed"
    )


def _rows(path: Path, lines: Sequence[str], skip: int, label: int) -> NDArray[Any]:
    """Return all columns as numbers, the class as its index."""

    def index(text: str) -> float:
        return float(CLASSES.index(text.strip().strip("'\"")))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy about a file without rows, which is refused here
            found = np.loadtxt(lines, delimiter=",", comments="%", skiprows=skip, converters={label: index}, ndmin=2)
    except Exception as error:  # noqa: BLE001  # of NumPy's reader
        raise ConfigError(f"data jets_openml: {path}: {said(error)}") from None
    if not len(found):
        raise ConfigError(f"data jets_openml: {path}: holds no rows")
    if not np.isfinite(found).all():
        raise ConfigError(f"data jets_openml: {path}: row {int(np.argmin(np.isfinite(found).all(1)))} is not finite")
    return found
