"""Paths that users give, and the content of files, no larger than we want it."""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_ISREG

from mase.errors import ConfigError, MaseError

LONGEST_PATH = 4096  # characters; no system takes more
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of surrogate pairs


def place(text: str | Path, what: str = "path") -> Path:
    """Return a path that any system can take and any file can hold as text.

    Args:
        what: what errors call it, such as ``--out``.

    Raises:
        ConfigError: it is empty, longer than paths can be, or holds control characters or what is not Unicode.
    """
    text = str(text)
    if not text:
        raise ConfigError(f"{what}: found an empty path; allowed is the name of a file or folder")
    if len(text) > LONGEST_PATH:
        raise ConfigError(f"{what}: found {len(text)} characters; a path has at most {LONGEST_PATH}")
    if UNSEEN.search(text):
        raise ConfigError(f"{what}: found {text[:80]!r}; a path has no control characters, and is Unicode")
    return Path(text)


def content(path: str | Path, most: int, error: type[MaseError] = ConfigError, hint: str = "") -> bytes:
    """Return what a file holds.

    Args:
        most: bytes that it may hold. error: what is raised. hint: what to say of a file that is not there.

    Raises:
        MaseError: it is not there, is not a file, is larger, or cannot be read.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not S_ISREG(status.st_mode):
            raise error(f"{path}: cannot read: this is not a file")
        if status.st_size > most:
            raise error(f"{path}: {status.st_size} bytes; at most {most} are read")
        with path.open("rb") as file:
            found = file.read(status.st_size + 1)
    except FileNotFoundError:
        raise error(f"{path}: no such file{hint}") from None
    except OSError as fault:
        raise error(f"{path}: cannot read: {fault.strerror or fault}") from None
    except ValueError as fault:  # a path with a null character, or one that is not Unicode
        raise error(f"{path}: this is not a path: {fault}") from None
    if len(found) > status.st_size:
        raise error(f"{path}: grows while it is read")
    return found


def text(path: str | Path, most: int, error: type[MaseError] = ConfigError, hint: str = "") -> str:
    """Return the UTF-8 text that a file holds.

    Args:
        most, error, hint: see :func:`content`.

    Raises:
        MaseError: as :func:`content` does; or the file is not UTF-8, and then the first wrong byte is named.
    """
    raw = content(path, most, error, hint)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise error(f"{path}: this is not UTF-8 text: byte {fault.start} is 0x{raw[fault.start]:02x}") from None
