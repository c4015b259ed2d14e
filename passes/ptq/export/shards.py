"""Checkpoints of the Hugging Face kind: safetensors in shards, an index, and a configuration with its quantization."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mase.doors import file, json_text
from mase.doors import tensors as tensor_file
from mase.errors import GraphError
from mase.files import write_atomic
from mase.models.checkpoint import FUSED, RENAMED
from passes.ptq.export.base import Json, Model, UnheldError, Writer, Written
from passes.ptq.folder import LARGEST, Layer

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
OLD_NAMES = ("mixtral",)  # models whose files call experts and routers otherwise than the modules do


@dataclass(frozen=True)
class Module:
    """A linear module of the checkpoint, and the rows of the layer that it has; an expert's layer may be two."""

    name: str
    start: int
    stop: int

    @property
    def rows(self) -> Tensor:
        """Indices of the rows."""
        return torch.arange(self.start, self.stop)


def modules(layer: Layer, model: Model) -> list[Module]:
    """Return the modules that a layer is in the files of its model.

    Raises:
        UnheldError: the layer has no module of its own.
    """
    rows = layer.weight.shape[0]
    if layer.turned:
        raise UnheldError("a Conv1D, whose weights are [inputs, outputs]; Linear layers are held")
    if layer.expert is None:
        return [Module(layer.path, 0, rows)]
    found = _of_expert(layer.key, layer.expert, rows, model)
    if not found:
        raise UnheldError("an expert of a fused weight whose names in files are not known")
    return found


def _of_expert(key: str, expert: int, rows: int, model: Model) -> list[Module]:
    """Return the modules that an expert of a stack is in the files of its model; none where they are not known."""
    family = int(model.config.get("model_type") in OLD_NAMES)
    for pattern, families in FUSED:
        if re.fullmatch(pattern, key):
            names = [re.sub(pattern, part, key).format(expert) for part in families[family]]
            each = rows // len(names)
            found = [name.removesuffix(".weight") for name in names]
            return [Module(name, i * each, (i + 1) * each) for i, name in enumerate(found)]
    return []


@dataclass(eq=False)
class Shards(Writer):
    """Write tensors by module, a file a part."""

    model: Model
    folder: Path
    names: dict[str, str] = field(default_factory=dict)  # tensor -> file
    size: int = 0
    spare: list[str] = field(default_factory=list)  # linear modules in float
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def layer(self, layer: Layer) -> list[Written]:
        parts = []
        for module in modules(layer, self.model):
            found, values = self.module(module, layer)
            self.tensors |= {f"{module.name}.{name}": x.contiguous() for name, x in found.items()}
            parts.append(Written(module.name, module.rows, values))
        return parts

    @abstractmethod
    def module(self, module: Module, layer: Layer) -> tuple[dict[str, Tensor], Tensor]:
        """Return the tensors of a module by name, and its values as the other tool computes them."""

    @abstractmethod
    def quantization(self) -> Json:
        """Return what the configuration says of the quantization."""

    def plain(self, key: str, x: Tensor) -> dict[str, Tensor]:
        name = self._named(key)
        self.tensors[name] = x
        return {name: x}

    def stack(self, key: str, x: Tensor, experts: Sequence[int]) -> dict[str, Tensor]:
        found = [(n, module) for n in experts for module in _of_expert(key, n, x.shape[1], self.model)]
        if not found:
            return self.plain(key, x)
        self.spare += [module.name for _, module in found]
        written = {f"{module.name}.weight": x[n, module.rows].contiguous() for n, module in found}
        self.tensors |= written
        return written

    def spared(self, path: str) -> None:
        self.spare.append(self._named(f"{path}.weight").removesuffix(".weight"))

    def _named(self, key: str) -> str:
        """Return the name of a tensor in the files of its model."""
        for old, new in RENAMED if self.model.config.get("model_type") in OLD_NAMES else ():
            key = re.sub(f"^{old}$", new, key)
        return key

    def flush(self) -> None:
        from safetensors.torch import save

        if self.tensors:
            name = f"model-{len(set(self.names.values())) + 1:05}.safetensors"
            write_atomic(self.folder / name, save(self.tensors, {"format": "pt"}))
            self.names |= dict.fromkeys(self.tensors, name)
            self.size += sum(x.nbytes for x in self.tensors.values())
            self.tensors = {}

    def finish(self) -> None:
        index = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(self.names.items()))}
        write_atomic(self.folder / INDEX, _text(index))
        config = {**self.model.config, "quantization_config": self.quantization()}
        write_atomic(self.folder / CONFIG, _text(config))


def _text(data: Json) -> str:
    return json.dumps(data, indent=2) + "\n"


def read(folder: Path) -> tuple[Json, Iterator[dict[str, Tensor]]]:
    """Return the quantization of a configuration, and the tensors of the files, one file after the other.

    Raises:
        GraphError: a file is missing or damaged.
    """
    config = json_text.read(folder / CONFIG, GraphError, special=True)
    index = json_text.read(folder / INDEX, GraphError)
    if not isinstance(config, dict) or not isinstance(config.get("quantization_config"), dict):
        raise GraphError(f"{folder / CONFIG}: has no quantization_config")
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise GraphError(f"{folder / INDEX}: has no weight_map")

    def files() -> Iterator[dict[str, Tensor]]:
        for name in sorted(set(map(str, index["weight_map"].values()))):
            path = folder / Path(name).name
            found = tensor_file.parse(file.content(path, LARGEST, GraphError), str(path))
            missing = [key for key, where in index["weight_map"].items() if where == name and key not in found]
            if missing:
                raise GraphError(f"{path}: holds no tensor {missing[0]!r}")
            yield found

    return config["quantization_config"], files()


def by_module(tensors: Mapping[str, Tensor], mark: str) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each module that has one of name ``mark``."""
    names = [key.removesuffix(f".{mark}") for key in tensors if key.endswith(f".{mark}")]
    return {
        name: {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.rpartition(".")[0] == name}
        for name in names
    }


def beside(tensors: Mapping[str, Tensor], modules: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in float: those of other modules, and biases."""
    for key, x in tensors.items():
        module, _, name = key.rpartition(".")
        if name == "bias" or module not in modules:
            yield key, x
