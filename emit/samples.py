"""Read the user's own samples from a file, to be run through a design."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from mase.errors import ConfigError

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
    try:
        x = read(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read: {error.strerror or error}") from None
    return _checked(x, tuple(input_shape), path)


def _npy(path: Path) -> Tensor:
    with path.open("rb") as file:
        return _tensor(_loaded(file, path), path)


def _loaded(file: BinaryIO, path: Path) -> object:
    try:
        found: object = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile, MemoryError, SyntaxError) as error:
        why = "its first bytes are neither's, or it holds Python objects" if "pickle" in str(error) else _line(error)
        raise ConfigError(f"{path}: not a .npy or .npz file: {why}") from None
    return found


def _npz(path: Path) -> Tensor:
    with path.open("rb") as file:
        arrays = _loaded(file, path)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ConfigError(f"{path}: holds one bare array; allowed in .npz is an archive of arrays")
        name = _named(list(arrays), path)
        try:
            return _tensor(arrays[name], path)
        except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            raise ConfigError(f"{path}: array {name!r} cannot be read: {_line(error)}") from None


def _safetensors(path: Path) -> Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: Mapping[str, Tensor] = load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: not a safetensors file: {_line(error)}") from None
    return tensors[_named(list(tensors), path)]


def _csv(path: Path) -> Tensor:
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for cells in reader:
                if cells and not (reader.line_num == 1 and not _numeric(cells)):
                    rows.append(_row(cells, reader.line_num, len(rows[0]) if rows else len(cells), path))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a CSV file: {_line(error)}") from None
    return torch.tensor(rows, dtype=torch.float64)


def _numeric(cells: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _row(cells: Sequence[str], line: int, columns: int, path: Path) -> list[float]:
    if len(cells) != columns:
        raise ConfigError(f"{path}: line {line}: has {len(cells)} columns; the lines before have {columns}")
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        column = next(i for i, cell in enumerate(cells) if not _numeric([cell]))
        where = f"{path}: line {line}, column {column + 1}"
        raise ConfigError(f"{where}: found {cells[column][:40]!r}; a number is needed") from None


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


def _tensor(array: object, path: Path) -> Tensor:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise ConfigError(f"{path}: found {found}; an array of real numbers is needed")
    return torch.from_numpy(array.astype(np.float64))


def _checked(x: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    if x.is_complex():
        raise ConfigError(f"{path}: found {x.dtype}; an array of real numbers is needed")
    if not x.numel():
        raise ConfigError(f"{path}: holds no sample; 1 or more are needed")
    x = _shaped(x, shape, path).float()
    bad = torch.isnan(x.reshape(x.shape[0], -1)).nonzero()
    if len(bad):
        sample, element = bad[0].tolist()
        count = f"{len(bad)} of {x.numel()} places"
        raise ConfigError(f"{path}: NaN at {count}, first in sample {sample}, element {element}; NaN has no code")
    return x


def _shaped(x: Tensor, shape: tuple[int, ...], path: Path) -> Tensor:
    elements = math.prod(shape)
    if tuple(x.shape) == shape:
        return x.unsqueeze(0)
    if tuple(x.shape[1:]) != shape and (x.ndim != 2 or x.shape[1] != elements):
        allowed = f"(samples, {', '.join(map(str, shape))}), or rows of {elements}"
        raise ConfigError(f"{path}: found shape {tuple(x.shape)}; allowed is {allowed}")
    return x.reshape(x.shape[0], *shape)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
