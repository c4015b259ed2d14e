"""What a run found, as typed data: the content of ``report.json``, which the HTML page and other programs read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainSerializer, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass

from mase.doors import json_text
from mase.errors import GraphError
from mase.files import write_atomic

SCHEMA = 2  # of report.json; in 1, layers had lanes without names

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Real = float  # a field may be called ``float``
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[Real, Field(ge=0)]
Decibels = Annotated[  # JSON has no infinity, which two equal tensors have: there it is a text
    Real,
    Field(allow_inf_nan=True),
    PlainSerializer(lambda x: x if math.isfinite(x) else "Infinity" if x > 0 else "-Infinity", when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"]}]}),
]


@dataclass(frozen=True, config=STRICT)
class Model:
    """What was made into hardware; ``macs`` a sample."""

    name: str
    parameters: Count
    macs: Count


@dataclass(frozen=True, config=STRICT)
class Data:
    """Samples in each split."""

    name: str
    train: Count
    validation: Count
    test: Count


@dataclass(frozen=True, config=STRICT)
class Accuracy:
    """Scores of the float model and of the chosen design, which is the integer reference and so the RTL.

    Args:
        metric: what the numbers are, such as ``accuracy`` (a fraction, 0..1).
        float, chosen: on the test split, scored once. float_validation, chosen_validation: where it was selected.
        tolerance: loss on the validation split that the selection allowed, in the unit of the metric.
    """

    metric: str
    float: Real
    chosen: Real
    float_validation: Real
    chosen_validation: Real
    tolerance: Amount


@dataclass(frozen=True, config=STRICT)
class Cycles:
    """Cycles that the schedules promise and those that the simulation counted."""

    predicted: int | Real
    simulated: int | Real

    @property
    def same(self) -> bool:
        """Tell whether both are equal."""
        return self.predicted == self.simulated


@dataclass(frozen=True, config=STRICT)
class RtlEdge:
    """One named edge in simulation: elements compared and different; cycles with a beat, a held one, or none."""

    path: str
    format: str
    elements: Count
    mismatches: Count
    beats: Count
    stalled: Count
    idle: Count


@dataclass(frozen=True, config=STRICT)
class RtlOutput:
    """One of several outputs in simulation.

    Args:
        port: name in the RTL. tensor: the model's name. edge: path of its node. format: of its codes.
        shape: of a sample. first_cycles: of its first beat. scored: the score is that of this output.
    """

    port: str
    tensor: str
    edge: str
    format: str
    shape: tuple[int, ...]
    first_cycles: Cycles
    latency_cycles: Cycles
    interval_cycles: Cycles
    scored: bool


@dataclass(frozen=True, config=STRICT)
class Rtl:
    """Simulated RTL against the integer reference.

    Args:
        mismatches: elements that differ, over all edges. lint_warnings: None where no linter ran.
        latency_cycles: last output beat of the first sample. interval_cycles: between samples, steady.
        edges: in order of the stream. outputs: each by itself, where there are several.
    """

    samples: Count
    mismatches: Count
    lint_warnings: Count | None
    latency_cycles: Cycles
    interval_cycles: Cycles
    edges: tuple[RtlEdge, ...]
    outputs: tuple[RtlOutput, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Figure:
    """One resource: from the cost model, and from synthesis (None where it did not run)."""

    predicted: Amount
    synthesised: Amount | None = None


@dataclass(frozen=True, config=STRICT)
class Resources:
    """What the whole design takes.

    Args:
        bram: in BRAM18. lut_equivalents: one number by the weights of the device.
        target: device. synthesised_by: tool and version, None where it did not run.
    """

    lut: Figure
    ff: Figure
    dsp: Figure
    bram: Figure
    lut_equivalents: Figure
    target: str
    synthesised_by: str | None = None


@dataclass(frozen=True, config=STRICT)
class SearchPoint:
    """One trial.

    Args:
        accuracy: on the validation split. cost: LUT-equivalents. bits: average stored bits a parameter.
        interval: cycles a sample. feasible: keeps all constraints. point: axis -> value, in text form.
    """

    trial: Count
    accuracy: Real
    cost: Amount
    bits: Amount
    interval: Amount
    feasible: bool
    point: Mapping[str, str]


@dataclass(frozen=True, config=STRICT)
class Search:
    """What was tried.

    Args:
        pareto: feasible points that none dominates. points: all. chosen: number of the trial that was built.
    """

    strategy: str
    trials: Count
    seconds: Amount
    pareto: tuple[SearchPoint, ...]
    points: tuple[SearchPoint, ...]
    chosen: Count


@dataclass(frozen=True, config=STRICT)
class LayerResources:
    """What the cost model predicts for one layer; ``bram`` in BRAM18."""

    lut: Amount
    ff: Amount
    dsp: Amount
    bram: Amount


@dataclass(frozen=True, config=STRICT)
class Layer:
    """One operator in hardware.

    Args:
        weight_format: and ``accumulation``, None where it has no weights. fold: how far it is folded out, by name:
            ``simd`` inputs and ``pe`` outputs a cycle, or ``lanes`` of both.
        cycles: a sample. macs: a sample. weight_bits: stored bits of all its parameters, shared fields counted.
        snr_db: signal to quantization noise of its output, infinite where equal, None where not measured.
        bottleneck: it sets the pace.
    """

    path: str
    kind: str
    weight_format: str | None
    input_format: str
    output_format: str
    accumulation: str | None
    fold: dict[str, Count]
    cycles: Count
    macs: Count
    parameters: Count
    weight_bits: Amount
    resources: LayerResources
    snr_db: Decibels | None
    bottleneck: bool


@dataclass(frozen=True, config=STRICT)
class Node:
    """One node of the dataflow graph; ``name`` is unique, ``path`` is for people."""

    name: str
    path: str
    kind: str


@dataclass(frozen=True, config=STRICT)
class Edge:
    """One tensor from ``source`` to ``target`` (names of nodes); ``shape`` of a sample, format None for real values."""

    source: str
    target: str
    shape: tuple[int, ...]
    format: str | None


@dataclass(frozen=True, config=STRICT)
class Dataflow:
    """The graph that was built, in order of execution."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


@dataclass(frozen=True, config=STRICT)
class Reproduce:
    """How to get the same again: a shell command, and the text of the resolved configuration."""

    command: str
    config: str


@dataclass(frozen=True, config=STRICT)
class Report:
    """All that ``report.json`` holds.

    Args:
        rtl: None where nothing was simulated. search: None where the formats were given.
        layers: in order of the stream. seconds: wall time by stage. versions: of programs and libraries by name.
        warnings: one line each, for the user.
    """

    name: str
    model: Model
    data: Data
    accuracy: Accuracy
    resources: Resources
    layers: tuple[Layer, ...]
    graph: Dataflow
    seconds: Mapping[str, Amount]
    versions: Mapping[str, str]
    seed: int
    reproduce: Reproduce
    rtl: Rtl | None = None
    search: Search | None = None
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA


ADAPTER: TypeAdapter[Report] = TypeAdapter(Report)


def to_json(report: Report) -> dict[str, Any]:  # JSON
    """Return the report as JSON data; an infinite ratio is the text ``Infinity``."""
    data: dict[str, Any] = ADAPTER.dump_python(report, mode="json")
    return data


def dump(report: Report, path: str | Path) -> None:
    """Write ``report.json``, whole or not at all.

    Raises:
        MaseError: the folder is read-only or full.
    """
    write_atomic(path, json.dumps(to_json(report), indent=1, allow_nan=False) + "\n")


def load(path: str | Path) -> Report:
    """Read what :func:`dump` wrote.

    Raises:
        GraphError: the file is missing, corrupt, incomplete, or of another schema; says where.
    """
    path = Path(path)
    data = json_text.read(path, GraphError, "; `mase run` writes it")
    json_text.check_schema(data, (SCHEMA,), str(path))
    try:
        return ADAPTER.validate_python(data)
    except ValidationError as error:
        more = f" ({error.error_count()} faults)" if error.error_count() > 1 else ""
        raise GraphError(f"{path}: {json_text.first(error)}{more}") from None


def json_schema() -> dict[str, Any]:  # JSON
    """Return the JSON schema of ``report.json``."""
    return ADAPTER.json_schema()
