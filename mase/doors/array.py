"""Arrays of numbers in the files of NumPy: no pickle is read, and nothing is allocated that the file does not hold."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mase.doors import file
from mase.errors import ConfigError, MaseError, said

LARGEST = 1 << 32  # bytes of one array
MOST_AXES = 64  # that NumPy has
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MAGIC = {"npy": b"\x93NUMPY", "npz": b"PK"}


def npy(raw: bytes, where: str, error: type[MaseError] = ConfigError) -> NDArray[Any]:
    """Return the array that the content of a ``.npy`` file is.

    Args:
        where: what errors call it. error: what is raised.

    Raises:
        MaseError: it is damaged, holds Python objects, or does not hold as much as its header tells of.
    """
    stream = io.BytesIO(raw)
    shape, fortran, dtype = _header(stream, where, error)
    if dtype.kind not in "biufc":
        found = "Python objects" if dtype.hasobject else str(dtype)[:60]
        raise error(f"{where}: found {found}; an array of real numbers is needed")
    count = math.prod(shape)
    told, held = count * dtype.itemsize, len(raw) - stream.tell()
    if told != held or len(shape) > MOST_AXES or math.prod(n or 1 for n in shape) > LARGEST:
        raise error(f"{where}: its header promises {str(shape)[:60]} {dtype}; {held} bytes follow it")
    flat: NDArray[Any] = np.frombuffer(raw, dtype, count, stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(stream: BinaryIO, where: str, error: type[MaseError]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        shape, fortran, dtype = HEADERS[np.lib.format.read_magic(stream)](stream)
    except KeyError as version:
        raise error(f"{where}: found version {version}; allowed are {', '.join(map(str, HEADERS))}") from None
    except Exception as fault:  # noqa: BLE001  # NumPy evaluates the header, and raises what Python's parser does
        raise error(f"{where}: this is not an array of NumPy: {said(fault)}") from None
    if any(type(size) is not int or size < 0 for size in shape):
        raise error(f"{where}: this is not an array of NumPy: its shape is {str(shape)[:60]}")
    return shape, fortran, dtype


class Archive:
    """The arrays of a ``.npz`` file by name.

    Args:
        path: of the file. error: what is raised.

    Raises:
        MaseError: it cannot be read, or is not an archive.
    """

    def __init__(self, path: Path, error: type[MaseError] = ConfigError) -> None:
        self._path, self._error = path, error
        raw = file.content(path, LARGEST, error)
        if raw.startswith(MAGIC["npy"]):
            raise error(f"{path}: holds one bare array; allowed in .npz is an archive of arrays")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(raw))
            self._names = {info.filename.removesuffix(".npy"): info for info in self._zip.infolist()}
        except Exception as fault:  # noqa: BLE001  # the module checks little of what it reads
            raise error(f"{path}: this is not a .npz file: {said(fault)}") from None

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return list(self._names)

    def read(self, name: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            MaseError: it is damaged, encrypted, packed in a way that is not known, or larger than it may be.
        """
        info, where = self._names[name], f"{self._path}: array {name[:60]!r}"
        if info.file_size > LARGEST:
            raise self._error(f"{where}: {info.file_size} bytes; at most {LARGEST} are read")
        try:
            with self._zip.open(info) as stream:
                raw = stream.read(info.file_size + 1)
        except Exception as fault:  # noqa: BLE001  # of zipfile and of each way to pack
            raise self._error(f"{where} cannot be read: {said(fault)}") from None
        return npy(raw, where, self._error)
