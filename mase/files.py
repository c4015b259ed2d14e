"""Files that are whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mase.errors import MaseError


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write ``data`` so that ``path`` is the old file or the new one, never a part.

    Raises:
        MaseError: the folder is missing, read-only or full; nothing half-written stays.
    """
    path = Path(path)
    raw = data.encode() if isinstance(data, str) else data
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise MaseError(f"{path}: cannot write: {error.strerror}") from error
