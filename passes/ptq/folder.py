"""Post-training quantization from disk to disk: one block of the model in memory at a time (docs/ptq.md)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mase.calib.cut import AFTER, BEFORE, Env, Part, kept_edges
from mase.calib.edges import inserted
from mase.calib.edges import read as read_edges
from mase.calib.install import install
from mase.calib.layers import MATRIX, Place, places, routers
from mase.doors import file, json_text
from mase.doors import tensors as tensor_file
from mase.errors import ConfigError, GraphError, said
from mase.files import write_atomic
from mase.formats.packed import PackedWeight
from mase.formats.packed_file import from_tensors, to_tensors
from mase.graph import Graph
from mase.models.checkpoint import DTYPES, Checkpoint
from mase.models.skeleton import Skeleton, skeleton
from mase.peak import peak_mib
from passes.ptq.allocation import Choice
from passes.ptq.engine import Done, LayerReport, Told, Walk, Watch, elements, mean_bits
from passes.ptq.recipe import Plan, told

SCHEMA = 1
JOURNAL, FOUND, REPORT, PROBE, LOCK = "journal.jsonl", "ptq.json", "report.json", "probe.safetensors", ".lock"
PLAIN = 16  # tokens of a sample where there is no calibration data
LAST = 4  # positions whose logits are kept
LARGEST = 1 << 38  # bytes of a file
COPIED = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt")
NAMES = {torch_kind: name for name, torch_kind in DTYPES.items()}
Json = Any  # JSON-able
Threads = Annotated[int, Field(gt=0, le=1 << 16)]
Length = Annotated[int, Field(gt=0, le=1 << 20)]


@dataclass(frozen=True, eq=False)
class Job:
    """Say what is to be done.

    Args:
        source: folder of the model. target: folder that receives the quantized one.
        tokens: calibration samples ``[n, length]``, int64; empty without calibration.
        seed: of what is drawn: the tokens that the result is checked with, where there are no samples.
    """

    source: Path
    target: Path
    plan: Plan
    tokens: Tensor = field(default_factory=lambda: torch.zeros(0, PLAIN, dtype=torch.int64))
    seed: int = 0

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return int(self.tokens.shape[1])


@dataclass(frozen=True)
class FolderReport:
    """What was done.

    Args:
        layers: in order of execution. seconds: of this call. peak_mib: of resident memory of the process.
        kept: parts that an earlier call had finished.
    """

    layers: tuple[LayerReport, ...]
    seconds: float
    peak_mib: float
    kept: int

    @property
    def elements(self) -> int:
        """Weights that were quantized."""
        return elements(self.layers)

    def bits(self, name: str) -> float:
        """Return the mean of ``stored_bits`` or ``paper_bits`` a quantized weight."""
        return mean_bits(self.layers, name)


# -- quantize ----------------------------------------------------------------------------------------------------------


def quantize_folder(job: Job, told_done: Told | None = None) -> FolderReport:
    """Quantize a model folder into another one, part by part; go on where an earlier call stopped.

    Raises:
        ConfigError: the plan does not fit the model, or the folder holds the work of another configuration.
        GraphError: the files do not hold the model's weights, or a part gives numbers that are not finite.
    """
    start = time.perf_counter()
    checkpoint = Checkpoint(job.source)
    made = skeleton(job.source, job.length)
    _check(job, made, checkpoint)
    choice = Choice.of(job.plan, made)
    with Journal.opened(job, checkpoint) as journal:
        if choice is not None:
            job = replace(job, plan=_chosen(job, choice, journal, Filled(made, checkpoint)))
        if len(journal.entries) == made.total and all((job.target / name).is_file() for name in (PROBE, REPORT, FOUND)):
            rows = tuple(_row(row) for entry in journal.entries for row in entry["report"])
            return FolderReport(rows, time.perf_counter() - start, peak_mib(), made.total)
        walk = Walk(job.plan, [_inputs(made, row) for row in job.tokens.split(1)] if job.plan.calibrates else [])
        probe = _inputs(made, _probe(job, made))
        watch = Watch(made.total, told_done, len(journal.entries))
        owners = dict[str, int]()
        kept = len(journal.entries)
        for number in range(made.total):
            part, later = made.part(number), made.later(number)
            if number < kept:
                probe = _passed(job, made, checkpoint, journal, number, walk, probe)
            else:
                part = made.filled(part, checkpoint)
                done = walk.step(part, later)
                stored = {key: n for key, n in owners.items() if key in part.graph.tensors}
                entry = _write(job.target, number, part, done, checkpoint, stored)
                journal.add({**entry, "report": [asdict(row) for row in done.layers]})
                probe = _step(done.quantized, probe, later)
                watch.done(part.name)
            owners |= {key: number for key in journal.entries[number]["floats"] if key not in owners}
        return _finish(job, journal, probe, made, start, kept)


def _chosen(job: Job, choice: Choice, journal: Journal, parts: Filled) -> Plan:
    """Return the plan with the formats of the journal; they are chosen once, and noted before the first part."""
    if journal.formats is None:
        journal.choose(choice.made(parts, [_inputs(parts.made, row) for row in job.tokens.split(1)]))
    assert journal.formats is not None
    if journal.formats.keys() != choice.bits.keys() or not {*journal.formats.values()} <= {*choice.ask.options}:
        raise GraphError(f"{journal.path}: corrupt: its formats are not those of the layers and options of allocate")
    return job.plan.with_formats(journal.formats)


@dataclass(frozen=True, eq=False)
class Filled:
    """The parts of a model on disk, each read when it is asked for."""

    made: Skeleton
    checkpoint: Checkpoint

    @property
    def total(self) -> int:
        return self.made.total

    def part(self, number: int) -> Part:
        return self.made.filled(self.made.part(number), self.checkpoint)

    def later(self, number: int) -> frozenset[str]:
        return self.made.later(number)


def _check(job: Job, made: Skeleton, checkpoint: Checkpoint) -> None:
    """Refuse what cannot be done before anything is written."""
    inside, outside = list[Place](), list[Place]()
    tied = dict[str, str]()
    for number, name in enumerate(made.names):
        part = made.part(number)
        made.check(part, checkpoint)
        for place in places(part.graph):
            (outside if name in (BEFORE, AFTER) else inside).append(place)
            if place.key in tied and job.plan.methods(place.path, name in (BEFORE, AFTER)):
                raise ConfigError(f"layer {place.path}: shares its weights with {tied[place.key]}; skip it")
        tied |= dict.fromkeys(part.graph.tensors, name)
    job.plan.check_model(inside, outside)
    if job.plan.calibrates and not len(job.tokens):
        raise ConfigError("calibration: the recipe needs calibration data; give calibration.text or calibration.tokens")
    if len(job.tokens) and not 0 <= int(job.tokens.min()) <= int(job.tokens.max()) < made.vocabulary:
        found = f"{int(job.tokens.min())} to {int(job.tokens.max())}"
        raise ConfigError(f"calibration: tokens are {found}; the vocabulary of {job.source} has {made.vocabulary}")


def _probe(job: Job, made: Skeleton) -> Tensor:
    """Return the tokens that the result is checked with: the first sample, or drawn ones."""
    if len(job.tokens):
        return job.tokens[:1]
    return torch.randint(made.vocabulary, (1, job.length), generator=torch.Generator().manual_seed(job.seed))


def _inputs(made: Skeleton, row: Tensor) -> Env:
    return {made.inputs[0].name: row}


def _step(part: Part, env: Env, later: frozenset[str]) -> Env:
    """Let the probe pass a part; behind the last one it is what the model gives."""
    found = part.run(env)
    return kept_edges({**env, **found}, later) if part.name != AFTER else found


def _passed(
    job: Job, made: Skeleton, checkpoint: Checkpoint, journal: Journal, number: int, walk: Walk, probe: Env
) -> Env:
    """Let samples and probe pass a part that an earlier call has finished."""
    part, later = made.part(number), made.later(number)
    quantized = part.on(install(*_read(job.target, journal.entries, number, part.graph), formats=False))
    if walk.samples:
        walk.passed(made.filled(part, checkpoint) if walk.floats else quantized, quantized, later)
    return _step(quantized, probe, later)


def _finish(job: Job, journal: Journal, probe: Env, made: Skeleton, start: float, kept: int) -> FolderReport:
    """Write what says that the folder is whole."""
    from safetensors.torch import save

    for pattern in COPIED:
        for path in sorted(p for p in job.source.glob(pattern) if p.is_file()):
            write_atomic(job.target / path.name, path.read_bytes())
    logits = next(iter(probe.values()))[0, -LAST:].contiguous()
    write_atomic(job.target / PROBE, save({"tokens": _probe(job, made), "logits": logits}))
    rows = tuple(_row(row) for entry in journal.entries for row in entry["report"])
    report = FolderReport(rows, time.perf_counter() - start, peak_mib(), kept)
    figures = {"seconds": report.seconds, "peak_mib": report.peak_mib, "kept": kept}
    bits = {name: report.bits(name) for name in ("stored_bits", "paper_bits")}
    write_atomic(job.target / REPORT, _text({**bits, **figures, "layers": [asdict(row) for row in rows]}))
    parts = [{key: value for key, value in entry.items() if key != "report"} for entry in journal.entries]
    chosen = {} if journal.formats is None else {"formats": journal.formats}
    write_atomic(job.target / FOUND, _text({**journal.origin, **chosen, **bits, "parts": parts}))
    return report


def _row(data: Json) -> LayerReport:
    return LayerReport(**{**data, "shape": tuple(data["shape"]), "formats": tuple(data["formats"])})


def _text(data: Json) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


# -- parts as files ----------------------------------------------------------------------------------------------------


def _write(
    folder: Path,
    number: int,
    part: Part,
    done: Done,
    checkpoint: Checkpoint,
    stored: Mapping[str, int],
) -> dict[str, Json]:
    """Write one part: packed weights, and all else that the files of the model had, in the type that it has there.

    Args:
        stored: keys that an earlier part has in its file, by the number of that part.
    """
    from safetensors.torch import save

    tensors, layers, floats = dict[str, Tensor](), dict[str, Json](), dict[str, str]()
    dense = {place.path: place for place in places(part.graph)}
    for path, weight in done.packed.items():
        fields, document = to_tensors(weight)
        tensors |= {f"{path}::{name}": field for name, field in fields.items()}
        layers[path] = {"told": document, "dense": digest(dense[path].weight(done.quantized.graph))}
    whole = _whole(part.graph, done.packed)
    for key, x in part.graph.tensors.items():
        if key in whole or (key in stored and key not in done.folded):
            continue
        kind = checkpoint.kind(key, tuple(x.shape))
        if kind is None and key not in done.folded:
            continue  # a constant of the structure
        floats[key] = NAMES[torch.float32 if key in done.folded or kind is None else kind]
        tensors[key] = done.folded.get(key, x).to(DTYPES[floats[key]]).contiguous().clone()
    raw = save(dict(sorted(tensors.items())))
    name = _name(number)
    write_atomic(folder / name, raw)
    borrowed = {key: n for key, n in stored.items() if key not in floats and key not in whole}
    found = {"number": number, "name": part.name, "file": name, "sha256": hashlib.sha256(raw).hexdigest()}
    edges = [edge.told() for edge in done.edges]
    return {**found, "layers": layers, "floats": floats, "borrowed": borrowed, "edges": edges}


def _name(number: int) -> str:
    """Return the name of the file of a part."""
    return f"part-{number:05}.safetensors"


def _whole(graph: Graph, packed: Mapping[str, PackedWeight]) -> set[str]:
    """Return the keys of tensors that are packed as a whole."""
    every = dict[str, list[str]]()
    for place in places(graph):
        every.setdefault(place.key, []).append(place.path)
    return {key for key, paths in every.items() if all(path in packed for path in paths)}


def digest(x: Tensor) -> str:
    """Return a digest of the values of a tensor in float32."""
    return hashlib.sha256(x.contiguous().cpu().numpy().tobytes()).hexdigest()


def _read(
    folder: Path, entries: Sequence[Mapping[str, Json]], number: int, graph: Graph
) -> tuple[Graph, dict[str, PackedWeight]]:
    """Return a part with the float tensors of its file, and its packed weights.

    Raises:
        GraphError: the file is missing, damaged, or not the one that the journal names.
    """
    entry = entries[number]
    found = _tensors(folder, entry)
    for key in entry["floats"]:
        if key not in found:
            raise GraphError(f"{folder / entry['file']}: holds no tensor {key!r}")
    values = {key: found[key].float() for key in entry["floats"]}
    for key, other in entry["borrowed"].items():
        values[key] = _tensors(folder, entries[other])[key].float()
    turned = {
        key: x.t().contiguous().t() if graph.tensors[key].ndim == 2 and not graph.tensors[key].is_contiguous() else x
        for key, x in values.items()
    }
    packed = {}
    for path, told_layer in entry["layers"].items():
        own = {key.removeprefix(f"{path}::"): x for key, x in found.items() if key.startswith(f"{path}::")}
        packed[path] = from_tensors(own, told_layer["told"], f"{folder / entry['file']}: {path}")
    edges = read_edges(entry.get("edges", []), str(folder / entry["file"]))
    return inserted(graph.replace(tensors=turned), edges), packed


def _tensors(folder: Path, entry: Mapping[str, Json]) -> dict[str, Tensor]:
    path = folder / entry["file"]
    raw = file.content(path, LARGEST, GraphError, "; the folder is not whole")
    if hashlib.sha256(raw).hexdigest() != entry["sha256"]:
        raise GraphError(f"{path}: damaged, or of another run: its digest is not the one in {FOUND}")
    return tensor_file.parse(raw, str(path))


# -- what journal and ptq.json say -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """What a reader takes from the first line."""

    threads: Threads
    length: Length


@dataclass(frozen=True)
class _Chosen:
    """Formats that were chosen, by path of the layer: the line before those of the parts."""

    formats: dict[str, str]


@dataclass(frozen=True)
class _Layer:
    told: dict[str, Any]
    dense: str


@dataclass(frozen=True)
class _Entry:
    """What is said of one part."""

    number: int
    name: str
    file: str
    sha256: str
    layers: dict[str, _Layer]
    floats: dict[str, str]
    borrowed: dict[str, int]
    edges: tuple[dict[str, Any], ...] = ()
    report: tuple[LayerReport, ...] = ()


def _check_parts(parts: Json, where: str, reports: bool = False) -> None:
    """Refuse a list of parts that no run writes.

    Args:
        reports: each has a report of every layer.

    Raises:
        GraphError: a field is missing or of another type, or a part stands in the place of another.
    """
    for number, entry in enumerate(json_text.checked(tuple[_Entry, ...], parts, where)):
        early = all(0 <= other < number for other in entry.borrowed.values())
        if reports and len(entry.report) != len(entry.layers):
            raise GraphError(
                f"{where}: corrupt: part {number} has {len(entry.layers)} layers, {len(entry.report)} reports"
            )
        if entry.number != number or entry.file != _name(number) or not early:
            raise GraphError(
                f"{where}: corrupt: part {entry.number} of file {entry.file[:60]!r} stands in place {number}"
            )


# -- the journal -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Journal:
    """Keep what is finished: a first line with what everything follows from, then a line for each part.

    Args:
        path: of the file. origin: the first line. entries: the others, in order of the parts.
        formats: that were chosen by path, a line before those of the parts; None: none were, or not yet.
    """

    path: Path
    origin: dict[str, Json]
    entries: list[dict[str, Json]] = field(default_factory=list)
    formats: dict[str, str] | None = None

    @classmethod
    @contextmanager
    def opened(cls, job: Job, checkpoint: Checkpoint) -> Iterator[Journal]:
        """Open the folder of a job, alone.

        Raises:
            ConfigError: another process works in it, or it holds something else.
        """
        _claim(job.target)
        with (job.target / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{job.target}: another process is writing this folder") from None
            yield cls._resumed(job, checkpoint)

    @classmethod
    def _resumed(cls, job: Job, checkpoint: Checkpoint) -> Journal:
        path, origin = job.target / JOURNAL, _origin(job, checkpoint)
        lines = _lines(path)
        if not lines:
            write_atomic(path, json.dumps(origin, sort_keys=True) + "\n")
            return cls(path, origin)
        json_text.checked(_Run, lines[0], str(path))
        chosen = [line for line in lines[1:2] if "formats" in line]
        parts = lines[1 + len(chosen) :]
        formats = json_text.checked(_Chosen, chosen[0], str(path)).formats if chosen else None
        _check_parts(parts, str(path), reports=True)
        _same(lines[0], origin, job.target)
        torch.set_num_threads(int(lines[0]["threads"]))  # sums in float depend on it
        whole: list[dict[str, Json]] = []
        if parts and (job.plan.allocate is None) != (formats is None):
            raise GraphError(f"{path}: corrupt: has parts, and not the formats that allocate chose")
        for entry in parts:
            try:
                _tensors(job.target, entry)
            except GraphError:
                break  # this part and all behind it are done again
            whole.append(entry)
        kept = "".join(json.dumps(line, sort_keys=True) + "\n" for line in (lines[0], *chosen, *whole))
        write_atomic(path, kept)
        for left in job.target.glob(".*.safetensors.*"):  # half-written when a process was killed
            left.unlink()
        return cls(path, lines[0], whole, formats)

    def choose(self, formats: dict[str, str]) -> None:
        """Note what was chosen; it is on the disk when this returns."""
        self._write({"formats": formats})
        self.formats = formats

    def add(self, entry: dict[str, Json]) -> None:
        """Note a finished part; it is on the disk when this returns."""
        self._write(entry)
        self.entries.append(entry)

    def _write(self, line: dict[str, Json]) -> None:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, sort_keys=True) + "\n")
            out.flush()
            os.fsync(out.fileno())


def _claim(target: Path) -> None:
    """Make the folder, or see that it is ours."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: this is a file; a folder is needed")
    if target.is_dir() and not (target / JOURNAL).is_file():
        others = [p.name for p in target.iterdir() if p.name != LOCK and not p.name.startswith(f".{JOURNAL}")]
        if others:
            raise ConfigError(f"{target}: holds {others[0]!r} and no quantized model; give an empty folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(f"{target}: cannot be made: {said(fault)}") from None


def _lines(path: Path) -> list[dict[str, Json]]:
    """Return the lines of a journal that are whole; a last one without its end is what a crash leaves."""
    if not path.is_file():
        return []
    out = []
    for text in file.text(path, LARGEST, GraphError).splitlines(keepends=True):
        if not text.endswith("\n"):
            break
        line = json_text.parse(text, str(path))
        if not isinstance(line, dict):
            raise GraphError(f"{path}: corrupt: found a {type(line).__name__} in place of an object")
        out.append(line)
    if out and out[0].get("schema") != SCHEMA:
        raise GraphError(f"{path}: schema {out[0].get('schema')!r}; this version reads schema {SCHEMA}")
    return out


def _origin(job: Job, checkpoint: Checkpoint) -> dict[str, Json]:
    plan = job.plan
    return {
        "schema": SCHEMA,
        "model": checkpoint.digest(),
        "recipe": told(plan.recipe),
        "overrides": {glob: told(methods) for glob, methods in plan.overrides},
        "skip": list(plan.skip),
        "also": list(plan.also),
        "ties": [list(tie) for tie in plan.ties],
        **({} if plan.allocate is None else {"allocate": asdict(plan.allocate)}),
        "seed": job.seed,
        "samples": len(job.tokens),
        "length": job.length,
        "tokens": hashlib.sha256(job.tokens.numpy().tobytes()).hexdigest()[:32],
        "threads": torch.get_num_threads(),
        "versions": {name: version_of(name) for name in ("mase-dse", "torch", "transformers")},
    }


def version_of(package: str) -> str:
    """Return the version of an installed package, or ``unknown``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _same(old: dict[str, Json], new: dict[str, Json], target: Path) -> None:
    """Refuse to go on with another configuration; says which fields differ."""
    before, now = _flat(json.loads(json.dumps(old))), _flat(json.loads(json.dumps(new)))
    before.pop("threads"), now.pop("threads")
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    if keys:
        texts = [f"{key} was {before.get(key, 'absent')}, is {now.get(key, 'absent')}" for key in keys[:4]]
        raise ConfigError(f"{target}: holds the work of another configuration: {'; '.join(texts)}; give another folder")


def _flat(data: Json, place: str = "") -> dict[str, Json]:
    """Return the leaves of JSON data by where they stand."""
    if isinstance(data, dict) and data:
        return {k: v for key, item in data.items() for k, v in _flat(item, f"{place}.{key}" if place else key).items()}
    if isinstance(data, list) and data:
        return {k: v for i, item in enumerate(data) for k, v in _flat(item, f"{place}[{i}]").items()}
    return {place: data}


# -- reading a quantized folder ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """One quantized layer as it is stored.

    Args:
        path: of the layer. weight: packed. key: of the model's own tensor. expert: its number in that, or None.
        turned: that tensor is ``[inputs, outputs]``, as of a ``Conv1D``.
    """

    path: str
    weight: PackedWeight
    key: str
    expert: int | None = None
    turned: bool = False


@dataclass(frozen=True, eq=False)
class Stored:
    """A part as its file has it.

    Args:
        layers: by path. floats: all other tensors by key, in their own type. linear: key -> path of the matrices among
            them that could have been quantized, and of routers. stacks: key -> numbers of the experts that stay in
            float; the tensor has all experts.
    """

    layers: dict[str, Layer]
    floats: dict[str, Tensor]
    linear: dict[str, str]
    stacks: dict[str, list[int]]


@dataclass(frozen=True, eq=False)
class Quantized:
    """Hold what a quantized folder says of itself; weights are read part by part.

    Args:
        folder: where it lies. found: content of ``ptq.json``. made: structure of the model.
    """

    folder: Path
    found: dict[str, Json]
    made: Skeleton

    @classmethod
    def opened(cls, folder: Path, length: int | None = None) -> Quantized:
        """Open a folder that :func:`quantize_folder` wrote.

        Args:
            length: tokens of a sample; that of the calibration by default.

        Raises:
            GraphError: the folder is not one, or is not whole.
        """
        started = (folder / JOURNAL).is_file()
        hint = "; it is written last: run `mase ptq` again" if started else "; this is not a quantized folder"
        found = json_text.read(folder / FOUND, GraphError, hint)
        where = str(folder / FOUND)
        json_text.check_schema(found, (SCHEMA,), where)
        run = json_text.checked(_Run, found, where)
        _check_parts(found.get("parts"), where)
        made = skeleton(folder, length or run.length)
        if len(found["parts"]) != made.total:
            raise GraphError(f"{where}: has {len(found['parts'])} parts; the model of config.json has {made.total}")
        return cls(folder, found, made)

    def part(self, number: int, formats: bool = True) -> tuple[Part, dict[str, PackedWeight]]:
        """Return a part that computes with its packed weights, and these."""
        part = self.made.part(number)
        graph, packed = _read(self.folder, self.found["parts"], number, part.graph)
        return part.on(install(graph, packed, formats)), packed

    def stored(self, number: int) -> Stored:
        """Return a part as its file has it."""
        entry, structure = self.found["parts"][number], self.made.part(number).graph
        tensors = _tensors(self.folder, entry)
        _, packed = _read(self.folder, self.found["parts"], number, structure)
        layers, found = dict[str, Layer](), {place.path: place for place in places(structure)}
        for path, weight in packed.items():
            place, table = found[path], structure.tensors[found[path].key]
            layers[path] = Layer(
                path, weight, place.key, place.expert, table.ndim == MATRIX and not table.is_contiguous()
            )
        left = [place for place in found.values() if place.path not in packed]
        linear = {place.key: place.path for place in left if place.expert is None}
        linear |= {key: key.removesuffix(".weight") for key in routers(structure)}
        stacks = dict[str, list[int]]()
        for place in left:
            if place.expert is not None:
                stacks.setdefault(place.key, []).append(place.expert)
        return Stored(layers, {key: tensors[key] for key in entry["floats"]}, linear, stacks)

    def graph(self) -> Graph:
        """Return the whole model as one graph."""
        return self.made.whole({i: self.part(i)[0] for i in range(self.made.total)}).verify()


def load(folder: str | Path, length: int | None = None) -> Graph:
    """Return the graph of a quantized folder; it computes with the packed weights.

    Args:
        length: tokens of a sample; that of the calibration by default.
    """
    return Quantized.opened(Path(folder), length).graph()


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        layers: how many were compared. scored: paths of those whose values differ from what was scored.
        emulated: paths of those that the graph rounds to other values. packed_logits, emulated_logits: whether the
            logits are those that were scored. worst: greatest difference of them.
    """

    layers: int
    scored: tuple[str, ...]
    emulated: tuple[str, ...]
    packed_logits: bool
    emulated_logits: bool
    worst: float

    @property
    def ok(self) -> bool:
        """Whether everything is equal."""
        return not self.scored and not self.emulated and self.packed_logits and self.emulated_logits


def check(folder: str | Path) -> CheckReport:
    """Compare packed, scored and emulated weights and logits of a quantized folder, one part in memory at a time.

    Raises:
        GraphError: the folder is not whole, or a file is damaged.
    """
    opened = Quantized.opened(Path(folder))
    torch.set_num_threads(int(opened.found["threads"]))
    kept = tensor_file.parse(file.content(opened.folder / PROBE, LARGEST, GraphError), str(opened.folder / PROBE))
    if not {"tokens", "logits"} <= kept.keys():
        raise GraphError(
            f"{opened.folder / PROBE}: holds {', '.join(sorted(kept)) or 'nothing'}; needed are logits, tokens"
        )
    packed_env = emulated_env = _inputs(opened.made, kept["tokens"])
    scored, emulated, count = list[str](), list[str](), 0
    for number in range(opened.made.total):
        with_formats, packed = opened.part(number)
        later, entry = opened.made.later(number), opened.found["parts"][number]
        count += len(packed)
        scored += [path for path, w in packed.items() if digest(w.dense()) != entry["layers"][path]["dense"]]
        emulated += _rounded(with_formats.graph)
        bare = opened.part(number, formats=False)[0]
        packed_env, emulated_env = _step(bare, packed_env, later), _step(with_formats, emulated_env, later)
    found = [next(iter(env.values()))[0, -LAST:] for env in (packed_env, emulated_env)]
    same = [torch.equal(logits, kept["logits"]) for logits in found]
    worst = max(float((logits - kept["logits"]).abs().max()) for logits in found)
    return CheckReport(count, tuple(scored), tuple(emulated), same[0], same[1], worst)


def _rounded(graph: Graph) -> list[str]:
    """Return the layers whose weights their format rounds to other values."""
    out = []
    for place in places(graph):
        record = graph.node(place.node).record
        fmt = record.operands[place.role].format
        if fmt is not None and place.expert in (None, 0):
            table = graph.tensors[place.key]
            if not torch.equal(fmt.quantize(table, graph.params(place.key)), table):
                out.append(place.path)
    return out
