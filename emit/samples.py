"""Read the user's own samples from a file, to be run through a design."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mase.doors import array, file, number, tensors
from mase.errors import ConfigError, suggest

USUAL = ("x", "input", "inputs", "data")  # names of the array that is meant, where a file holds several


def load_samples(path: str | Path, input_shape: Sequence[int]) -> Tensor:
    """Read samples from a ``.npy``, ``.npz``, ``.safetensors`` or ``.csv`` file; no code in the file can run.

    A file of several arrays needs one that is called ``x``, ``input``, ``inputs`` or ``data``. CSV holds one sample a
    row and may begin with a line of names.

    Args:
        input_shape: of one sample; the file holds ``[samples, *input_shape]``, ``[samples, elements]`` or one sample.

    Returns:
        float32 ``[samples, *input_shape]``; wider numbers are rounded, as a model in float32 takes them.

    Raises:
        ConfigError: the file is missing or corrupt, holds NaN, no numbers, no sample, or samples of another shape.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path}: found the suffix {path.suffix!r}; allowed: {', '.join(READERS)}")
    x = read(path)
    return _checked(x, tuple(input_shape), path)


def load_inputs(path: str | Path, shapes: Mapping[str, Sequence[int]]) -> tuple[Tensor, ...]:
    """Read the samples of all inputs of a design, as :func:`load_samples` does.

    Several inputs need a ``.npz`` or ``.safetensors`` file with an array of the name of each.

    Args:
        shapes: of one sample, by the name of the input.

    Raises:
        ConfigError: as :func:`load_samples`; an array is missing, or has another number of samples.
    """
    path = Path(path)
    if len(shapes) == 1:
        return (load_samples(path, next(iter(shapes.values()))),)
    if path.suffix.lower() not in (".npz", ".safetensors"):
        wanted = ", ".join(shapes)
        raise ConfigError(
            f"{path}: found the suffix {path.suffix!r}; a file of several inputs ({wanted}) is .npz or .safetensors"
        )
    archive = array.Archive(path) if path.suffix.lower() == ".npz" else None
    found = tensors.parse(file.content(path, array.LARGEST), str(path), ConfigError) if archive is None else {}
    names = list(found) if archive is None else archive.names
    out = list[Tensor]()
    for name, shape in shapes.items():
        if name not in names:
            raise ConfigError(f"{path}: the array {name!r} is missing{suggest(name, names)}")
        raw = found[name] if archive is None else _tensor(archive.read(name), path)
        x = _checked(raw, tuple(shape), path, f"array {name!r}: ")
        if out and len(x) != len(out[0]):
            first = next(iter(shapes))
            raise ConfigError(f"{path}: array {name!r} has {len(x)} samples; {first!r} has {len(out[0])}")
        out.append(x)
    return tuple(out)


def _npy(path: Path) -> Tensor:
    raw = file.content(path, array.LARGEST)
    if raw.startswith(array.MAGIC["npz"]):
        raise ConfigError(f"{path}: holds an archive; in .npy an array of real numbers is needed")
    return _tensor(array.npy(raw, str(path)), path)


def _npz(path: Path) -> Tensor:
    archive = array.Archive(path)
    return _tensor(archive.read(_named(archive.names, path)), path)


def _safetensors(path: Path) -> Tensor:
    found = tensors.parse(file.content(path, array.LARGEST), str(path), ConfigError)
    return found[_named(list(found), path)]


def _csv(path: Path) -> Tensor:
    rows: list[list[float]] = []
    try:
        reader = csv.reader(io.StringIO(file.text(path, array.LARGEST).removeprefix("\ufeff"), newline=""))
        for cells in reader:
            if cells and not (reader.line_num == 1 and not _numeric(cells)):
                rows.append(_row(cells, reader.line_num, len(rows[0]) if rows else len(cells), path))
    except csv.Error as error:
        raise ConfigError(f"{path}: this is not a CSV file: {error}") from None
    return torch.tensor(rows, dtype=torch.float64)


def _numeric(cells: Sequence[str]) -> bool:
    try:
        return bool([number.real(cell.strip(), "", special=True) for cell in cells])
    except ConfigError:
        return False


def _row(cells: Sequence[str], line: int, columns: int, path: Path) -> list[float]:
    where = f"{path}: line {line}"
    if len(cells) != columns:
        raise ConfigError(f"{where}: has {len(cells)} columns; the lines before have {columns}")
    return [number.real(cell.strip(), f"{where}, column {i + 1}", special=True) for i, cell in enumerate(cells)]


READERS: Mapping[str, Callable[[Path], Tensor]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".csv": _csv,
}


def _named(names: Sequence[str], path: Path) -> str:
    if len(names) == 1:
        return names[0]
    found = [name for name in USUAL if name in names]
    if len(found) != 1:
        shown = ", ".join(sorted(map(repr, names))[:8]) or "none"
        raise ConfigError(f"{path}: holds the arrays {shown}; allowed is one, or one called {', '.join(USUAL)}")
    return found[0]


def _tensor(x: NDArray[Any], path: Path) -> Tensor:
    if x.dtype.kind not in "fiub":
        raise ConfigError(f"{path}: found {x.dtype}; an array of real numbers is needed")
    return torch.from_numpy(x.astype(np.float64))


def _checked(x: Tensor, shape: tuple[int, ...], path: Path, which: str = "") -> Tensor:
    where = f"{path}: {which}"
    if x.is_complex():
        raise ConfigError(f"{where}found {x.dtype}; an array of real numbers is needed")
    if not x.numel():
        raise ConfigError(f"{where}holds no sample; 1 or more are needed")
    x = _shaped(x, shape, where).float()
    bad = torch.isnan(x.reshape(x.shape[0], -1)).nonzero()
    if len(bad):
        sample, element = bad[0].tolist()
        count = f"{len(bad)} of {x.numel()} places"
        raise ConfigError(f"{where}NaN at {count}, first in sample {sample}, element {element}; NaN has no code")
    return x


def _shaped(x: Tensor, shape: tuple[int, ...], where: str) -> Tensor:
    elements = math.prod(shape)
    if tuple(x.shape) == shape:
        return x.unsqueeze(0)
    if tuple(x.shape[1:]) != shape and (x.ndim != 2 or x.shape[1] != elements):
        allowed = f"(samples, {', '.join(map(str, shape))}), or rows of {elements}"
        raise ConfigError(f"{where}found shape {tuple(x.shape)}; allowed is {allowed}")
    return x.reshape(x.shape[0], *shape)
