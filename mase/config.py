"""Configuration of a run: typed, closed, with the same types printing the JSON schema (docs/config.md)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_serializer

from mase import secrets
from mase.doors import file, yaml_text
from mase.doors.json_text import first
from mase.errors import CREDENTIALS, ConfigError, suggest

SEAL = "# sha256 of the lines above: "  # last line of a configuration that the program itself wrote
LONGEST = 1 << 20  # bytes of a configuration; a larger file is something else
MILLION = 1_000_000  # trials, epochs, samples of a batch
MANY = 1 << 31  # samples, batches, cycles a sample
WORKERS = 1024
MOST_LOST = 300.0  # of accuracy, or dB
OUTPUTS = 1000  # of one model
LANES = 1 << 16  # of one operator, either way
FORMATS = 1000  # in one list
GLOBS = 10_000  # in one table


class Section(BaseModel):
    """A closed, frozen part of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class ModelConfig(Section):
    """The model: a registered name with its options, or a function of the user's file that returns an nn.Module."""

    name: str | None = Field(None, description="a name from `mase list models`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    python: str | None = Field(None, description="file.py:function, beside or below this configuration")
    weights: str | None = Field(None, description="safetensors file with the parameters, beside or below this file")
    outputs: list[str | int] | None = Field(
        None,
        min_length=1,
        max_length=OUTPUTS,
        description="results that are built, by name or place, of a model that returns several; without it, all. "
        "The first is trained and scored",
    )


class DataConfig(Section):
    """The data: a registered name, or a function of the user's file that returns mase.data.base.Data."""

    name: str | None = Field(None, description="a name from `mase list data`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments; path: relative to this file")
    python: str | None = Field(None, description="file.py:function, beside or below this configuration")
    labels: Literal["given", "inputs"] = Field(
        "given", description="inputs: each sample, flattened, is its own label, as an autoencoder needs it"
    )
    calibration: int = Field(
        512, gt=0, le=MANY, description="number of train samples on which activations are calibrated"
    )
    sampler: Literal["first", "random", "stratified"] = Field(
        "first", description="how they are chosen; stratified keeps the share of each class"
    )


class TrainConfig(Section):
    """How the run trains the model: Adam; cross entropy, or squared error where the data are values."""

    epochs: int = Field(60, gt=0, le=MILLION)
    batch: int = Field(64, gt=0, le=MILLION)
    rate: float = Field(0.004, gt=0, le=1e3, description="learning rate, which falls to 0 along a cosine")
    decay: float = Field(0.0, ge=0, le=1e3, description="weight decay")
    steps: int | None = Field(
        None, gt=0, le=MANY, description="number of batches, in place of epochs; the rate then changes after each batch"
    )
    warmup: float = Field(0.0, ge=0, le=1, description="share of the steps, at the start, in which the rate rises")
    clip: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="largest norm of the gradient of all parameters together; longer ones are scaled down",
    )

    def updates(self, samples: int) -> int:
        """Return the number of batches in all."""
        return self.steps if self.steps is not None else self.epochs * -(-samples // self.batch)


class FormatsConfig(Section):
    """Formats by text form (`mase list formats`); a missing field takes the default, or float where there is none."""

    weight: str | None = None
    activation: str | None = Field(
        None, description="format of the produced tensor; in `default` also of the graph inputs"
    )
    output: str | None = Field(None, description="format of the produced tensor; overrides `activation`")
    bias: str | None = Field(None, description="without it, the bias has the grid of the accumulator")
    accumulation: str | None = Field(None, description="auto, exact or aligned(G)")
    rounding: Literal["even", "half_up", "trunc"] | None = None


class QuantizeSection(Section):
    """Formats that are given by hand."""

    default: FormatsConfig = FormatsConfig()
    overrides: dict[str, FormatsConfig] = Field(
        default_factory=dict, max_length=GLOBS, description="glob of module paths -> formats"
    )
    inputs: str | None = Field(None, description="format of the graph inputs; without it, default.activation")


class SearchConfig(Section):
    """The search and its choice: the cheapest within `tolerance` of the float score, or the best within `bits`."""

    strategy: str = Field("tpe", description="a name from `mase list strategies`")
    trials: int = Field(48, gt=0, le=MILLION)
    weight: list[str] = Field(min_length=1, max_length=FORMATS, description="formats of each layer's weights")
    activation: list[str] = Field(
        min_length=1, max_length=FORMATS, description="formats of each produced tensor and of the input"
    )
    tie: bool = Field(False, description="one weight and one activation format for all layers")
    tolerance: float = Field(
        0.01,
        ge=0,
        le=MOST_LOST,
        description="loss that is allowed on the validation split: as a fraction of samples (accuracy), in dB "
        "(values), in the unit of the score (text)",
    )
    score: str | None = Field(
        None, description="of a language model: perplexity, which is also meant without it, or bits_per_byte"
    )
    bits: float | None = Field(
        None,
        gt=0,
        le=64,
        description="of a language model, in place of the tolerance: most stored bits of a value, the mean of all "
        "weights and of what is multiplied for a sample; the design that reads best within them is chosen",
    )
    samples: int | None = Field(
        None, gt=0, le=MANY, description="number of validation samples that a trial scores; without it, all"
    )
    workers: int = Field(1, gt=0, le=WORKERS)
    cluster: Literal["local", "ray"] = "local"
    storage: SecretStr | None = Field(
        None,
        description="database URL; without it, study.journal in the run folder. `${NAME}` comes from the environment. "
        "No file receives the password: `${MASE_STORAGE_PASSWORD}` stands for it in the run folder",
    )

    @field_serializer("storage")
    def _written(self, storage: SecretStr | None) -> str | None:
        return None if storage is None else secrets.written(storage.get_secret_value())


class FoldingConfig(Section):
    """How far one operator is folded out, by name; what is absent is 1."""

    simd: int | None = Field(None, gt=0, le=LANES, description="inputs a cycle")
    pe: int | None = Field(None, gt=0, le=LANES, description="outputs a cycle")
    lanes: int | None = Field(
        None, gt=0, le=LANES, description="both, of an operator whose inputs and outputs have one number of lanes"
    )


class HardwareConfig(Section):
    """The hardware that is built."""

    target: str = Field("xcup", description="a name from `mase list devices`")
    clock_mhz: float = Field(200.0, gt=0, le=1e5)
    interval: int | None = Field(
        None, gt=0, le=MANY, description="longest interval between samples, in cycles; without it, the cheapest design"
    )
    folding: dict[str, FoldingConfig] = Field(
        default_factory=dict, max_length=GLOBS, description="glob of module paths -> folding by hand"
    )
    top: str = Field("mase_top", description="name of the top module; characters that are not legal are replaced")
    axis_pad: bool = Field(
        False, description="AXI4-Stream: pad tdata to a power of two of bytes, with tkeep, as DMA engines need it"
    )


class SimulateConfig(Section):
    """The samples that go through the emitted RTL."""

    samples: int | None = Field(
        None, gt=0, le=MANY, description="number of test samples; without it, the whole test split"
    )


class SynthesizeConfig(Section):
    """Synthesis by Yosys."""

    enabled: bool = True


class RunConfig(Section):
    """A whole run: model + data -> formats -> hardware -> proof -> report."""

    version: Literal[1] = Field(1, description="version of this layout")
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of the run folder")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of all randomness; 32 bits, which every library takes")
    model: ModelConfig
    data: DataConfig
    train: TrainConfig | None = None
    fuse: bool = Field(True, description="merge ReLU into the layer before it, so that there is one rounding")
    quantize: QuantizeSection | None = None
    search: SearchConfig | None = None
    hardware: HardwareConfig = HardwareConfig()
    simulate: SimulateConfig = SimulateConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()


Part = TypeVar("Part", bound=Section)


def load(path: str | Path, overrides: Sequence[str] = (), own: bool = False, formats: bool = True) -> RunConfig:
    """Read a YAML configuration and lay ``key=value`` overrides over it.

    Args:
        overrides: such as ``search.trials=8``; the value is YAML.
        own: it is one that :func:`dump` wrote, and must be as it left it. formats: see :func:`parse`.

    Raises:
        ConfigError: the file is absent or not YAML, a key is unknown or a value impossible; one line that says where.
    """
    data, text = read(path, overrides)
    if own and text != _sealed(text.rpartition(SEAL)[0]):
        raise ConfigError(
            f"{path}: cut off or edited: the digest in its last line says so; copy it elsewhere to run it as it is, "
            "or give the configuration that the run came from"
        )
    return parse(data, str(path), formats)


def read(path: str | Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Return the mapping of a YAML file with ``key=value`` overrides laid over it, and its text.

    Raises:
        ConfigError: the file is absent, not YAML, or not a mapping; or an override is none.
    """
    path = Path(path)
    others = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    text = file.text(path, LONGEST, ConfigError, suggest(path.name, others) if others else "")
    data = yaml_text.parse(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds {type(data).__name__}; a mapping of sections is needed")
    for change in overrides:
        _override(data, change)
    return data, text


def parse(data: Mapping[str, Any], where: str, formats: bool = True) -> RunConfig:
    """Check a configuration that is already a mapping.

    Args:
        formats: what is done with it needs formats, so it must say how tensors get them.

    Raises:
        ConfigError: see :func:`load`.
    """
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error)}") from None
    if config.search is not None and config.search.storage is not None:
        secrets.check(config.search.storage.get_secret_value())
    if formats and config.quantize is None and config.search is None:
        raise ConfigError(
            f"{where}: there is neither a quantize nor a search section; one of them must give the formats"
        )
    for what, part in (("model", config.model), ("data", config.data)):
        if (part.name is None) == (part.python is None):
            raise ConfigError(f"{where}: {what}: give either name or python")
    return config


def section(cls: type[Part], data: Mapping[str, Any], where: str) -> Part:
    """Check one section that is already a mapping.

    Raises:
        ConfigError: see :func:`load`.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first(error, cls)}") from None


def schema() -> dict[str, Any]:
    """Return the JSON schema of a run configuration."""
    return RunConfig.model_json_schema()


def dump(config: RunConfig) -> str:
    """Return the configuration as YAML with every default written out, and a digest of it in the last line."""
    return _sealed(yaml_text.dump(json.loads(config.model_dump_json())))


def _sealed(text: str) -> str:
    return f"{text}{SEAL}{hashlib.sha256(text.encode()).hexdigest()}\n"


def _override(data: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key:
        shown = CREDENTIALS.sub(r"\1***@", text)[:60]
        raise ConfigError(f"--set {shown!r}; allowed is key=value, such as search.trials=8")
    if len(text) > LONGEST // 16:
        raise ConfigError(f"--set {key[:60]}: {len(text)} characters; at most {LONGEST // 16}")
    parts, place = key.split("."), data
    if len(parts) > yaml_text.DEEPEST:
        raise ConfigError(f"--set {key[:60]}: {len(parts)} names; at most {yaml_text.DEEPEST}")
    for part in parts[:-1]:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"--set {key}: {part!r} is not a section")
    place[parts[-1]] = yaml_text.parse(value, f"--set {key}")


def _first(error: ValidationError, cls: type[Section] = RunConfig) -> str:
    """Return the first complaint as ``where: what; what is allowed``."""
    item = error.errors()[0]
    path = [str(part) for part in item["loc"]]
    where = ".".join(path)[:120]
    if item["type"] == "extra_forbidden":
        fields = _fields(cls, path[:-1])
        return f"{where}: unknown field{suggest(path[-1], fields)}"
    if "storage" in path and item["type"] != "missing":  # what was found may hold a password
        return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}"
    return first(error)


def _fields(cls: type[Section], path: Sequence[str]) -> list[str]:
    """Return the fields of the section at ``path``, from the schema."""
    whole = cls.model_json_schema()
    place: Mapping[str, Any] = whole
    for part in path:
        inner = place.get("properties", {}).get(part) or place.get("additionalProperties") or {}
        options = [inner, *inner.get("anyOf", []), *inner.get("allOf", [])] if isinstance(inner, dict) else []
        reference = next((o["$ref"] for o in options if "$ref" in o), None)
        place = whole["$defs"][reference.rsplit("/", 1)[1]] if reference else (inner if isinstance(inner, dict) else {})
    return list(place.get("properties", {}))
