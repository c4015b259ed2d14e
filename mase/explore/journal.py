"""The journal of a study: Optuna's records, a line each, chained by a running digest that shows a lost or changed line.

The digest of a line is SHA-256 over the digest before it and the line itself. It stands in the line as its last field,
which Optuna ignores. Lines without one, which earlier versions wrote, may stand at the beginning; the first digest
covers them too. A last line without its end is what a crash leaves: it is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, Self

from optuna.storages.journal import BaseJournalBackend

from mase.errors import ConfigError

START = b'{"op_code":'  # the beginning of every line
DIGITS = 32  # hexadecimal, of a digest
DIGEST = re.compile(rb',"digest":"([0-9a-f]{%d})"\}\n' % DIGITS)  # the end of a line


class KernelLock:
    """Lock a journal by ``flock`` on the file itself: the kernel drops it when its holder is killed; it nests.

    Args:
        path: the journal.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._depth = 0
        self._file = -1

    def __enter__(self) -> Self:
        """Take the lock, and on the first level cut off what a crash left of a half-written line."""
        if self._depth == 0:
            self._file = os.open(self._path, os.O_RDWR)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                raise ConfigError(f"storage {self._path}: another process is writing this study") from None
            self._cut_torn_line()
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        """Leave one level; drop the lock with the last."""
        self._depth -= 1
        if self._depth == 0:
            os.close(self._file)

    def _cut_torn_line(self) -> None:
        content = self._path.read_bytes()
        if not content.endswith(b"\n"):
            os.ftruncate(self._file, content.rfind(b"\n") + 1)


@dataclass(frozen=True)
class _Place:
    """Say how far a journal was read: lines, bytes, the digest up to there, and whether lines carry it by now."""

    lines: int = 0
    size: int = 0
    digest: bytes = b""
    chained: bool = False

    def after(self, line: bytes, where: str) -> _Place:
        """Return the place behind a line, the next one.

        Raises:
            ConfigError: the line is not the one that was written here.
        """
        found = DIGEST.search(line, max(0, len(line) - DIGITS - 16))
        if found is None and self.chained:
            raise self._broken(where, "has no digest, while the line before it has one")
        text = line if found is None else line[: found.start()]
        digest = _chain(self.digest, text)
        if found is not None and found[1] != digest:
            raise self._broken(where, "differs from its digest: it was changed, or a line before it is missing")
        return _Place(self.lines + 1, self.size + len(line), digest, found is not None)

    def _broken(self, where: str, what: str) -> ConfigError:
        way = "put a whole copy in its place, or move it away to search anew"
        return ConfigError(f"storage {where}: this study is damaged: line {self.lines + 1} {what}; {way}")


def _check_file(path: Path) -> None:
    """Refuse what is not a journal before it is written to: a torn line of it would be cut off.

    Raises:
        ConfigError: it is not a regular file, or begins otherwise than a journal does.
    """
    if not path.exists():
        return
    if not S_ISREG(path.stat().st_mode):
        raise ConfigError(f"storage {path}: this is not a file")
    with path.open("rb") as file:
        head = file.read(len(START))
    if not START.startswith(head):
        raise ConfigError(f"storage {path}: this is not a study, or it is damaged: it begins with {head!r}")


def _chain(before: bytes, text: bytes) -> bytes:
    return hashlib.sha256(before + text).hexdigest()[:DIGITS].encode()


class Journal(BaseJournalBackend):
    """Keep the records of Optuna's journal storage in a file, each line with the running digest.

    Args:
        path: the file; made if absent.
        lock: keeps other processes from writing.

    Raises:
        ConfigError: the file is not a journal.
    """

    def __init__(self, path: Path, lock: KernelLock) -> None:
        self._path, self._lock = path, lock
        _check_file(path)
        path.open("ab").close()
        self._read = _Place()  # how far the lines were checked

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from a number on; every line is checked once.

        Raises:
            ConfigError: a line was changed or is missing. ValueError: a line is not JSON.
        """
        if log_number_from != self._read.lines:  # another reader than the one before: check from the start
            self._read = _Place()
        for line in self._lines():
            place = self._read.after(line, str(self._path))
            record = json.loads(line)
            self._read = place
            if place.lines > log_number_from:
                yield record

    def append_logs(self, logs: Sequence[dict[str, Any]]) -> None:
        """Write records behind whatever the file holds by now; they are durable when this returns."""
        with self._lock:
            place, text = self._end(), b""
            for log in logs:
                body = json.dumps(log, separators=(",", ":")).encode()[:-1]
                line = body + b',"digest":"' + _chain(place.digest, body) + b'"}\n'
                place, text = place.after(line, str(self._path)), text + line
            with self._path.open("ab") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

    def _end(self) -> _Place:
        """Return the place behind the last line, without moving on: the records between are still to be read."""
        place = self._read
        if place.size > self._path.stat().st_size:
            raise ConfigError(f"storage {self._path}: this study was cut off while it ran")
        for line in self._lines():
            place = place.after(line, str(self._path))
        return place

    def _lines(self) -> Iterator[bytes]:
        """Yield the whole lines behind what was read."""
        with self._path.open("rb") as file:
            file.seek(self._read.size)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written now, or what a crash left
                yield line
