"""Jet substructure as CERNBox had it: HDF5, 986,806 jets, used by LogicNets and its kin. Not the set of OpenML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mase.data.base import DATASETS, Data, held, needs
from mase.data.jets import CLASSES, FEATURES, jets
from mase.errors import ConfigError, MaseError, said

TABLE = "t_allpar_new"
ENDS = (".h5", ".hdf5", ".z")  # the published file ends in .z, and is HDF5 all the same


@DATASETS.add("jets_cernbox")
def jets_cernbox(path: Path) -> Data:
    """Read standardised features ``[n, 16]`` and five classes (g, q, w, z, t) from HDF5; repeated rows count once.

    Args:
        path: ``processed-pythia82-lhc13-all-pt1-50k-r1_h022_e0175_t220_nonu_truth.z``, or a folder of such files.

    Source: J. Duarte et al., Fast Inference of Deep Neural Networks in FPGAs for Particle Physics, 2018; repeated rows
    and split as in Y. Umuroglu et al., LogicNets, 2020.
    """
    paths = sorted(p for p in path.iterdir() if p.suffix in ENDS) if path.is_dir() else [path]
    if not paths:
        raise ConfigError(f"data jets_cernbox: {path}: no file that ends in {' or '.join(ENDS)}{held(path)}")
    rows = np.concatenate([_rows(p) for p in paths])
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    marks = rows[:, len(FEATURES) :]
    if not ((marks == 0) | (marks == 1)).all() or not (marks.sum(1) == 1).all():
        raise ConfigError(f"data jets_cernbox: {path}: a row whose classes are not one 1 and four 0")
    return jets("jets_cernbox", rows[:, : len(FEATURES)], marks.argmax(1))


def _table(file: Any, kind: type[Any], path: Path) -> Any:  # h5py is optional
    if TABLE not in file:
        raise ConfigError(
            f"data jets_cernbox: {path}: there is no table {TABLE!r}; found: {', '.join(file) or 'nothing'}"
        )
    if not isinstance(file[TABLE], kind):
        raise ConfigError(f"data jets_cernbox: {path}: {TABLE!r} is not a table")
    return file[TABLE][()]


def _rows(path: Path) -> NDArray[Any]:
    """Return features, then the five marks of the class, as columns."""
    h5py = needs("h5py", "data", "data jets_cernbox")
    try:
        with h5py.File(path, "r") as file:
            table = _table(file, h5py.Dataset, path)
    except MaseError:
        raise
    except Exception as error:  # noqa: BLE001  # HDF5's own words for damage come as errors of many kinds
        raise ConfigError(f"data jets_cernbox: {path}: cannot read: {said(error)}") from None
    names = [f"j_{name}" for name in (*FEATURES, *CLASSES)]
    missing = [name for name in names if name not in (table.dtype.names or ())]
    if missing:
        raise ConfigError(f"data jets_cernbox: {path}: table {TABLE} has no column {missing[0]!r}")
    for name in names:
        if not np.issubdtype(table.dtype[name], np.number):
            raise ConfigError(f"data jets_cernbox: {path}: column {name!r} is {table.dtype[name]}; numbers are needed")
    return np.stack([table[name].astype(np.float64) for name in names], axis=1)
