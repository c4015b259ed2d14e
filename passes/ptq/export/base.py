"""What an export is: packed weights in the layout of another tool, as it computes them (docs/ptq/export.md)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import ConfigError, GraphError, MaseError, UnknownName, said
from mase.files import write_atomic
from mase.formats.packed import PackedWeight
from mase.registry import Registry
from passes.ptq.folder import COPIED, FOUND, Layer, Quantized, Stored

SCHEMA = 1
RECORD = "mase_export.json"
NAMED = 3  # layers that an error names for each reason
Json = Any  # JSON-able


class UnheldError(ConfigError):
    """A layout cannot hold a layer; the text says what it has, and what would be held."""


@dataclass(frozen=True, eq=False)
class Model:
    """What an export knows of the model as a whole.

    Args:
        folder: the quantized folder. config: content of its ``config.json``. blocks: how many it has.
    """

    folder: Path
    config: Mapping[str, Json]
    blocks: int

    def need(self, key: str) -> Json:
        """Return a field of the configuration.

        Raises:
            GraphError: it is missing.
        """
        if self.config.get(key) is None:
            raise GraphError(f"{self.folder / 'config.json'}: has no {key}; the export needs it")
        return self.config[key]


@dataclass(frozen=True, eq=False)
class Written:
    """One matrix of the checkpoint.

    Args:
        name: in the checkpoint. rows: of the layer, which it has in this order. values: as the other tool computes
            them, in the type in which it does.
    """

    name: str
    rows: Tensor
    values: Tensor


class Writer(ABC):
    """Write one checkpoint into an empty folder, part by part."""

    @abstractmethod
    def layer(self, layer: Layer) -> list[Written]:
        """Write a layer, as one tensor of the checkpoint or as several.

        Raises:
            UnheldError: the layout cannot hold it.
        """

    @abstractmethod
    def plain(self, key: str, x: Tensor) -> dict[str, Tensor]:
        """Write a tensor that stays in float; return it by its name in the checkpoint, as it is read again."""

    def stack(self, key: str, x: Tensor, experts: Sequence[int]) -> dict[str, Tensor]:
        """Write those experts of a stack that stay in float, likewise; as one tensor where they have no names."""
        return self.plain(key, x)

    @abstractmethod
    def spared(self, path: str) -> None:
        """Note a linear layer that stays in float."""

    @abstractmethod
    def flush(self) -> None:
        """Let go of what a part has brought."""

    @abstractmethod
    def finish(self) -> None:
        """Write what comes last."""


class Export(ABC):
    """A layout of another tool."""

    tool: ClassVar[str]  # that reads it, for pages and errors

    @abstractmethod
    def writer(self, model: Model, folder: Path) -> Writer:
        """Return what writes a checkpoint into a folder.

        Raises:
            ConfigError: the layout has no place for this kind of model, or a package is missing.
        """

    @abstractmethod
    def tensors(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """Yield name and values of each matrix, as the other tool computes them, and of each tensor in float.

        Raises:
            GraphError: a file is missing or damaged.
        """

    @abstractmethod
    def loader(self) -> str:
        """Say what decodes :meth:`tensors`: the other tool's own package, or our reading of its layout."""

    @abstractmethod
    def held(self, weight: PackedWeight) -> str:
        """Say what a weight becomes, such as ``q4_0``.

        Raises:
            UnheldError: the layout cannot hold it.
        """


EXPORTS: Registry[type[Export]] = Registry("export", "passes.ptq.export")


@dataclass(frozen=True)
class ExportReport:
    """What was written: how many matrices, the types in which their tool computes, and bytes of all files."""

    to: str
    layers: int
    computes_in: tuple[str, ...]
    bytes: int


def chosen(to: str) -> tuple[str, Export]:
    """Return an export by the name that users give, such as ``compressed-tensors``."""
    name = to.replace("-", "_")
    if name not in EXPORTS:
        raise UnknownName("layout", to[:60], [known.replace("_", "-") for known in EXPORTS])
    return name, EXPORTS[name]()


def export(folder: str | Path, to: str, target: str | Path) -> ExportReport:
    """Write a quantized folder in the layout of another tool, one part in memory at a time.

    The folder appears when it is whole. Every layer is decoded again by the other tool's rule, and is written only
    where that gives the packed weights in the type in which the tool computes.

    Raises:
        ConfigError: layers that the layout cannot hold, with the reason; or the target is not empty.
    """
    name, layout = chosen(to)
    opened, target = Quantized.opened(Path(folder)), Path(target)
    config = json_text.read(opened.folder / "config.json", GraphError, "; a quantized folder has one", special=True)
    model = Model(opened.folder, config, opened.made.count)
    if any(entry.get("edges") for entry in opened.found["parts"]):
        raise ConfigError(f"{folder}: has quantized activations; {layout.tool} gets weights alone: leave them out")
    with _scratch(target) as scratch:
        writer = layout.writer(model, scratch)
        layers, floats = _all_parts(opened, writer, to)
        writer.finish()
        for pattern in COPIED[1:]:
            for path in sorted(p for p in opened.folder.glob(pattern) if p.is_file()):
                shutil.copyfile(path, scratch / path.name)
        source = hashlib.sha256((opened.folder / FOUND).read_bytes()).hexdigest()
        record = {"schema": SCHEMA, "to": name, "source": source, "layers": layers, "floats": floats}
        write_atomic(scratch / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
    kinds = tuple(sorted({row["type"] for row in layers.values()}))
    return ExportReport(to, len(layers), kinds, sum(p.stat().st_size for p in target.iterdir()))


def _all_parts(opened: Quantized, writer: Writer, to: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Write all parts; return type and digest of each layer, and of each tensor in float."""
    layers, floats, refused = dict[str, Json](), dict[str, Json](), dict[str, list[str]]()
    for number in range(opened.made.total):
        part = opened.stored(number)
        for layer in part.layers.values():
            try:
                layers |= _written(layer, writer)
            except UnheldError as fault:
                refused.setdefault(str(fault), []).append(layer.path)
        for path in part.linear.values():
            writer.spared(path)
        if not refused:
            floats |= _left(part, writer)
        writer.flush()
    if refused:
        count = sum(map(len, refused.values()))
        all_of = sum(len(entry["layers"]) for entry in opened.found["parts"])
        texts = "; ".join(f"{reason} ({_some(paths)})" for reason, paths in refused.items())
        raise ConfigError(f"export to {to}: cannot hold {count} of {all_of} layers: {texts}")
    if not layers:
        raise ConfigError(f"{opened.folder}: has no quantized layers; nothing is exported")
    return layers, floats


def _left(part: Stored, writer: Writer) -> dict[str, Json]:
    """Write what stays in float; return type and digest by name."""
    found = dict[str, Tensor]()
    for key, x in part.floats.items():
        found |= writer.stack(key, x, part.stacks[key]) if key in part.stacks else writer.plain(key, x)
    return {name: _told(x) for name, x in found.items()}


def _written(layer: Layer, writer: Writer) -> dict[str, Json]:
    """Write a layer, and see that the other tool computes what was packed; return type and digest by name."""
    found = writer.layer(layer)
    dense = layer.weight.dense()
    for part in found:
        if not torch.equal(part.values, dense[part.rows].to(part.values.dtype)):
            raise UnheldError(f"values that arithmetic in {_name(part.values)} does not give from these scales")
    return {part.name: _told(part.values) for part in found}


def _told(x: Tensor) -> Json:
    return {"type": _name(x), "digest": digest(x)}


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _some(paths: list[str]) -> str:
    rest = len(paths) - NAMED
    return ", ".join(paths[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that takes its place when all is well, and goes away otherwise."""
    target = target.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there already; give a folder that is empty or does not exist")
    scratch = target.with_name(f".{target.name[:200]}.mase_export")
    with _claimed(scratch, target):
        try:
            yield scratch
            scratch.replace(target)
        except BaseException as fault:  # not afterwards: the name is then free for another process
            shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(fault, OSError):
                raise MaseError(f"{target}: cannot write: {said(fault)}") from None
            raise


@contextmanager
def _claimed(scratch: Path, target: Path) -> Iterator[None]:
    """Hold a folder alone, without what a killed process left in it."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = os.open(scratch, os.O_RDONLY)
    except OSError as fault:
        raise ConfigError(f"{target}: cannot be made: {said(fault)}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in scratch.iterdir():
            left.unlink()
        yield
    except BlockingIOError:
        raise ConfigError(f"{target}: another process is writing this folder") from None
    except OSError as fault:
        raise ConfigError(f"{target}: cannot be made: {said(fault)}") from None
    finally:
        os.close(lock)


def digest(x: Tensor) -> str:
    """Return a digest of the values of a tensor in its own type."""
    return hashlib.sha256(x.reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()


# -- checking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layer:
    type: str
    digest: str


@dataclass(frozen=True)
class _Record:
    to: str
    layers: dict[str, _Layer]
    floats: dict[str, _Layer]


@dataclass(frozen=True)
class ExportCheck:
    """What a check of an exported folder found.

    Args:
        to: the layout. loader: what decoded it. layers: matrices that were compared. differ: names of those whose
            values are others than those that were packed, or that are missing. floats: names of tensors in float of
            which that is true.
    """

    to: str
    loader: str
    layers: int
    differ: tuple[str, ...]
    floats: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is equal."""
        return not self.differ and not self.floats


def check(folder: Path) -> ExportCheck:
    """Decode an exported folder as the other tool does, and compare every tensor with what was written.

    Raises:
        GraphError: a file is missing or damaged.
    """
    where = folder / RECORD
    data = json_text.read(where, GraphError)
    json_text.check_schema(data, (SCHEMA,), str(where))
    record = json_text.checked(_Record, data, str(where))
    if record.to not in EXPORTS:
        raise GraphError(f"{where}: names the layout {record.to[:60]!r}; known are {', '.join(EXPORTS)}")
    layout = EXPORTS[record.to]()
    every = {**record.layers, **record.floats}
    missing, differ = dict.fromkeys(every), list[str]()
    for name, x in layout.tensors(folder):
        told = every.get(name)
        if told is None or told.type != _name(x) or told.digest != digest(x):
            differ.append(name)
        missing.pop(name, None)
    differ += missing
    matrices = tuple(name for name in differ if name not in record.floats)
    floats = tuple(name for name in differ if name in record.floats)
    return ExportCheck(record.to, layout.loader(), len(record.layers), matrices, floats)
