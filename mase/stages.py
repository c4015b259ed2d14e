"""Stages of a run, addressed by content: what was done with the same inputs is not done again.

What a run folder holds: docs/design.md, "Run folder".
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from mase.doors import json_text
from mase.errors import MaseError
from mase.files import write_atomic

Notify = Callable[[str, str], None]  # stage, what happens


class Entry(TypedDict):
    """What is kept of a finished stage."""

    key: str
    seconds: float
    files: dict[str, str]


ENTRIES = TypeAdapter(dict[str, Entry])


class Stages:
    """Keep ``stages.json`` of a run folder: key, seconds and digests of the files of every finished stage.

    Args:
        folder: of the run. notify: told when a stage starts, ends, or is kept.
    """

    def __init__(self, folder: Path, notify: Notify) -> None:
        self.folder, self.notify = folder, notify
        self._path = folder / "stages.json"
        self._done: dict[str, Entry] = self._read()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds of every stage, of the run that did it."""
        return {name: entry["seconds"] for name, entry in self._done.items()}

    def key(self, name: str) -> str:
        """Return the key under which a stage was finished, or an empty text."""
        return self._done[name]["key"] if name in self._done else ""

    def files(self, name: str) -> dict[str, str]:
        """Return the digest of every file that a stage left, by its place in the run folder."""
        return dict(self._done[name]["files"]) if name in self._done else {}

    def fresh(self, name: str, key: str) -> bool:
        """Tell whether a stage with this key is finished, and each file that it left is as it left it."""
        return bool(key) and self.key(name) == key and self._same(self.files(name))

    @contextmanager
    def running(self, name: str, key: str, outputs: Sequence[str] = ()) -> Iterator[None]:
        """Time the body as a stage; it counts as finished only when the body ends without an error.

        Args:
            outputs: files that the body leaves, and folders that are its own, in the run folder.
        """
        self.notify(name, "start")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self.notify(name, "did not finish")
            raise
        seconds, files = round(time.perf_counter() - start, 3), self._digests(outputs)
        self._done[name] = {"key": key, "seconds": seconds, "files": files}
        write_atomic(self._path, json.dumps(self._done, indent=1) + "\n")
        self.notify(name, f"{self._done[name]['seconds']:.1f} s")

    def _digests(self, outputs: Sequence[str]) -> dict[str, str]:
        places = [self.folder / output for output in outputs]
        files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
        return {str(f.relative_to(self.folder)): key_of(f) for f in sorted(files) if f.is_file()}

    def _same(self, files: Mapping[str, str]) -> bool:
        paths = {self.folder / file: digest for file, digest in files.items()}
        return all(path.is_file() and key_of(path) == digest for path, digest in paths.items())

    def _read(self) -> dict[str, Entry]:
        try:
            return json_text.checked(ENTRIES, json_text.read(self._path), str(self._path))
        except MaseError:
            return {}  # absent or damaged: every stage is done again


def key_of(*parts: object) -> str:
    """Return a digest of JSON-able parts and of files given as paths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()[:32]
