"""A folder of the Hugging Face kind, read tensor by tensor: no more of it is in memory than what is asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import ConfigError, GraphError, suggest
from mase.models.huggingface import HEADER, check_safetensors, weight_files

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
SAMPLE = 1 << 20  # bytes at each end of a file that its digest covers, beside its header
RENAMED: tuple[tuple[str, str], ...] = ((r"(.+)\.mlp\.gate\.weight", r"\1.block_sparse_moe.gate.weight"),)
# a stack of experts -> names of the parts of one expert, which lie behind each other along the outputs
FUSED: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (
        r"(.+)\.mlp\.experts\.gate_up_proj",
        (
            (r"\1.mlp.experts.{}.gate_proj.weight", r"\1.mlp.experts.{}.up_proj.weight"),
            (r"\1.block_sparse_moe.experts.{}.w1.weight", r"\1.block_sparse_moe.experts.{}.w3.weight"),
        ),
    ),
    (
        r"(.+)\.mlp\.experts\.down_proj",
        ((r"\1.mlp.experts.{}.down_proj.weight",), (r"\1.block_sparse_moe.experts.{}.w2.weight",)),
    ),
)


@dataclass(frozen=True)
class Entry:
    """Say where a tensor lies: file, first byte, type, shape."""

    file: Path
    start: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """Hold where the tensors of a folder lie.

    Args:
        folder: with ``config.json`` and safetensors.

    Raises:
        ConfigError: it is not one. GraphError: a file is cut short, or its header is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            near = suggest(folder.name, [p.name for p in folder.parent.glob("*/")]) if folder.parent.is_dir() else ""
            raise ConfigError(f"model {folder}: no such folder{near}")
        self.folder = folder
        config = json_text.read(folder / "config.json", ConfigError, "; a model folder has one", special=True)
        if not isinstance(config, dict):
            raise ConfigError(f"{folder / 'config.json'}: holds {type(config).__name__}; an object is needed")
        self.config: dict[str, Any] = config
        self.entries: dict[str, Entry] = {}
        for file in weight_files(folder):
            check_safetensors(file)
            self.entries |= _entries(file)

    def digest(self) -> str:
        """Return a digest of the configuration, and of the headers, sizes and ends of the files of weights."""
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for file in sorted({entry.file for entry in self.entries.values()}):
            size = file.stat().st_size
            with file.open("rb") as stream:
                length = int.from_bytes(stream.read(HEADER), "little")
                digest.update(f"{file.name} {size}".encode() + stream.read(length + SAMPLE))
                stream.seek(max(0, size - SAMPLE))
                digest.update(stream.read())
        return digest.hexdigest()[:32]

    def parts(self, key: str, shape: Sequence[int]) -> list[list[str]]:
        """Return the names of what a tensor of the model is made of, a list for each entry of its first axis.

        A tensor that the file has itself is one list of one name.

        Raises:
            GraphError: the files do not hold it.
        """
        names = [key] + [re.sub(old, new, key) for old, new in RENAMED if re.fullmatch(old, key)]
        for name in names:
            if name in self.entries:
                return [[name]]
        for pattern, families in FUSED:
            if re.fullmatch(pattern, key):
                for family in families:
                    found = [[re.sub(pattern, part, key).format(k) for part in family] for k in range(shape[0])]
                    if all(name in self.entries for group in found for name in group):
                        return found
        raise GraphError(f"{self.folder}: the files hold no tensor {key!r}{suggest(key, self.entries)}")

    def check(self, key: str, shape: Sequence[int]) -> None:
        """Refuse a tensor that is missing or has another shape or type than the model needs.

        Raises:
            GraphError: names the tensor.
        """
        groups = self.parts(key, shape)
        entries = [[self.entries[name] for name in group] for group in groups]
        for group, names in zip(entries, groups, strict=True):
            for entry, name in zip(group, names, strict=True):
                if entry.dtype not in DTYPES:
                    raise GraphError(f"{entry.file}: tensor {name!r} is {entry.dtype}; allowed are {', '.join(DTYPES)}")
        first = entries[0]
        alone = (
            len(groups) == 1 and len(first) == 1 and groups[0][0] in self.entries and len(shape) == len(first[0].shape)
        )
        rows = (sum(e.shape[0] for e in first), *first[0].shape[1:])
        found = rows if alone else (len(entries), *rows)
        if found != tuple(shape) or any(e.shape[1:] != first[0].shape[1:] for group in entries for e in group):
            raise GraphError(
                f"{self.folder}: tensor {key!r} has shape {found} in the files; config.json gives {tuple(shape)}"
            )

    def kind(self, key: str, shape: Sequence[int]) -> torch.dtype | None:
        """Return the type in which the files have a tensor of the model; None where they do not have it."""
        try:
            return DTYPES[self.entries[self.parts(key, shape)[0][0]].dtype]
        except GraphError:
            return None

    def read(self, key: str, shape: Sequence[int]) -> Tensor:
        """Return a tensor of the model in float32, its own memory."""
        groups = self.parts(key, shape)
        out = torch.empty(tuple(shape))
        if len(groups) == 1 and len(groups[0]) == 1 and len(self.entries[groups[0][0]].shape) == len(shape):
            return out.copy_(self.raw(groups[0][0]))
        for slot, group in zip(out, groups, strict=True):
            start = 0
            for name in group:
                part = self.raw(name)
                slot[start : start + len(part)] = part
                start += len(part)
        return out

    def raw(self, name: str) -> Tensor:
        """Return a tensor of a file as it is stored."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        count = torch.Size(entry.shape).numel()
        with entry.file.open("rb") as stream:
            stream.seek(entry.start)
            data = bytearray(stream.read(count * dtype.itemsize))
        if not count:
            return torch.empty(entry.shape, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=count).reshape(entry.shape)


def _entries(file: Path) -> dict[str, Entry]:
    """Return where the tensors of a file lie; its header was checked."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER), "little")
        header = json_text.parse(stream.read(length), f"{file}: header of safetensors")
    out = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            shape, kind = tuple(map(int, entry["shape"])), str(entry["dtype"])
            if kind in DTYPES and torch.Size(shape).numel() * DTYPES[kind].itemsize != end - start:
                raise GraphError(f"{file}: the header says tensor {name!r} is {kind} {shape} in {end - start} bytes")
            out[name] = Entry(file, HEADER + length + int(start), kind, shape)
    return out
