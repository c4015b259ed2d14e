"""A study: recipes x formats x models x seeds, each cell in a process of its own, resumed cell by cell (docs/study.md).

The first cell of a model and seed scores it in float, trains it before where that is asked for, and keeps what the
others need: its weights and the tokens. A cell is done when its file lies in ``cells/``, under a digest of all that it
follows from.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import json
import math
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from glob import escape
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mase import training
from mase.calib.edges import inserted
from mase.calib.install import install
from mase.data import base as data_sets
from mase.data.base import Passage
from mase.data.tokens import tokenizer
from mase.doors import file, json_text
from mase.doors import tensors as tensor_file
from mase.doors.file import place
from mase.errors import ConfigError, GraphError, MaseError, UnknownName, line, said
from mase.explore.evaluator import Evaluate, EvaluatorSpec
from mase.explore.workers import Worker, spawn
from mase.files import write_atomic
from mase.formats import parse
from mase.frontend import trace
from mase.graph import Graph
from mase.metrics.perplexity import perplexity
from mase.models.base import MODELS, build
from mase.models.checkpoint import Checkpoint
from mase.models.skeleton import skeleton
from mase.peak import peak_mib
from mase.report import study as page
from mase.report.study import Found
from mase.studyconfig import FLOAT, StudyConfig, StudyModel
from passes.ptq.base import METHODS
from passes.ptq.engine import Told, Watch, quantize
from passes.ptq.folder import JOURNAL, LARGEST, Job, load, quantize_folder, version_of
from passes.ptq.recipe import Plan, check_order, recipe, told

SCHEMA = 1
CELLS, KEPT, LOCK = "cells", "models", ".lock"
TOKENS, WEIGHTS = "tokens.safetensors", "weights.safetensors"  # of a model that is kept
SPENT = "spent.json"  # what the parts of a folder took that are done
TABLE, ROWS, TEXT, PAGE = "study.json", "study.csv", "study.md", "report.html"
EVALUATOR = f"{__name__}:evaluator"  # what a process runs
NOTES = 5  # warnings of a cell that are kept
Json = Any  # JSON-able
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Cell:
    """Say what one process does.

    Args:
        model, seed, recipe, format: its place; ``FLOAT`` in place of a recipe; no format where no step takes one.
        job: what the process gets. key: digest of all that the result follows from.
        base: key of the float cell of its model and seed.
    """

    model: str
    seed: int
    recipe: str
    format: str
    job: Mapping[str, Json]
    key: str
    base: str

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.model, self.seed, self.recipe, self.format) if part != "")


# -- what there is to do -----------------------------------------------------------------------------------------------


def cells(config: StudyConfig, home: Path) -> tuple[Cell, ...]:
    """Return all cells of a study, for each model and seed the float one first; nothing is run or written.

    Raises:
        ConfigError: a recipe, a format, a model or a data set is not what it must be; one line that says which.
    """
    steps = dict(_recipes(config))
    texts = [name for name, made in data_sets.DATASETS.items() if "tokens" in inspect.signature(made).parameters]
    if config.data.name not in texts:
        raise UnknownName("data.name: text", config.data.name, texts)
    out, text = [], _checked_text(config, home)
    longest = max(config.calibration.length, config.evaluation.window)
    for name, model in config.models.items():
        digest = [text, _checked_model(name, model, home, longest), _checked_tokens(name, model, home)]
        for seed in config.seeds:
            shared = _shared(config, model, seed, home)
            base = _key({**shared, "recipe": []}, digest)
            for (called, form), made in steps.items():
                job = {**shared, "recipe": told(recipe(made, f"recipes.{called}", seed)) if made else []}
                out.append(Cell(name, seed, called, form, job, _key(job, digest), base))
    return tuple(out)


def _recipes(config: StudyConfig) -> Iterator[tuple[tuple[str, str], list[Json]]]:
    """Yield name and format of each recipe, and its steps; the float one, which has none, first."""
    for i, form in enumerate(config.formats):
        _checked_format(form, f"formats[{i}]")
    yield (FLOAT, ""), []
    if config.baseline is not None:
        forms = list(dict.fromkeys([*config.baseline.formats, *config.formats]))
        for form in forms:
            _checked_format(form, "baseline.formats")
        found = dict(_filled(config.baseline.steps, forms, "baseline.steps"))
        if "" in found:
            raise ConfigError("baseline: needs steps that take a format, and a format or more")
        yield from (((config.baseline.name, form), made) for form, made in found.items())
    for name, raw in config.recipes.items():
        for form, made in _filled(raw, config.formats, f"recipes.{name}"):
            yield (name, form), made


def _checked_format(form: str, where: str) -> None:
    try:
        parse(form)
    except MaseError as fault:
        raise ConfigError(f"{where}: {fault}") from None


def _filled(raw: Sequence[Json], forms: Sequence[str], where: str) -> Iterator[tuple[str, list[Json]]]:
    """Yield a recipe once for each format, which steps take that have one and are not told theirs."""
    recipe(raw, where)
    steps = [(step, {}) if isinstance(step, str) else next(iter(step.items())) for step in raw]
    takes = [_takes(name, given or {}) for name, given in steps]
    if not any(takes) or not forms:
        check_order(recipe(raw, where), where)
        yield "", list(raw)
        return
    for form in forms:
        made = [
            {name: {**(given or {}), **({"format": form} if take else {})}}
            for (name, given), take in zip(steps, takes, strict=True)
        ]
        check_order(recipe(made, f"{where} in {form}"), where)
        yield form, made


def _takes(name: str, given: Mapping[str, Json]) -> bool:
    method = METHODS[name]
    known = [field.name for field in fields(method)]  # type: ignore[arg-type]  # every method is a dataclass
    return "format" in known and "format" not in given and method.stage != "branch"


def _checked_text(config: StudyConfig, home: Path) -> str:
    """Return a digest of the text of all splits; refuse what is not a data set."""
    data = data_sets.load(config.data.name, {**config.data.options, "tokens": "bytes"}, home)
    found = hashlib.sha256()
    for split in (data.train, data.validation, data.test):
        ids = _passage(split).ids.to(torch.uint8)  # tokens are bytes
        found.update(f"{len(ids)} ".encode() + ids.numpy().tobytes())
    return found.hexdigest()


def _checked_tokens(name: str, model: StudyModel, home: Path) -> str:
    """Return a digest of the file of a tokenizer, or an empty text; refuse what is not a tokenizer."""
    form = _form(model, home)
    try:
        tokenizer(form, [])
    except ConfigError as fault:
        raise ConfigError(f"models.{name}.tokens: {fault}") from None
    return _digest([Path(form)]) if form.endswith(".json") else ""


def _checked_model(name: str, model: StudyModel, home: Path, length: int) -> str:
    """Return a digest of the files of a model, or an empty text; refuse what is not a language model.

    Args:
        length: of the longest window that it gets.
    """
    where = f"models.{name}"
    if model.folder is not None:
        return Checkpoint(home / place(model.folder, f"{where}.folder")).digest()
    assert model.name is not None
    if model.name not in MODELS:
        raise UnknownName(f"{where}.name", model.name, MODELS)
    if "path" in inspect.signature(MODELS[model.name]).parameters:  # it is built where the cell runs
        return _digest(_files(model.options.get("path"), f"{where}.options.path", home))
    try:
        with torch.device("meta"):
            module = build(model.name, model.options, home).eval()
            ids = torch.zeros(1, length, dtype=torch.int64)
    except MaseError as fault:
        raise ConfigError(f"{where}: {fault}") from None
    try:
        found = training.scored(module(ids), None)
    except Exception as fault:  # noqa: BLE001 - what PyTorch raises where a shape or a type does not fit
        raise ConfigError(f"{where}: {model.name} fails on a window of {length} tokens: {said(fault)}") from None
    if found.shape[:-1] != ids.shape:
        raise ConfigError(
            f"{where}: {model.name} gives {[*found.shape]} for {length} tokens; allowed is logits of each"
        )
    return ""


def _files(given: Json, where: str, home: Path) -> list[Path]:
    """Return the files that an option ``path`` of a model means; none where it is a name on a hub."""
    if not isinstance(given, str):
        raise ConfigError(f"{where}: found {json_text.repr_of(given)}; allowed is the path of a file or folder")
    path = home / place(given, where)
    beside = path if path.is_dir() else path.parent  # weights of ONNX lie in a file of a longer name
    names = "*" if path.is_dir() else f"{escape(path.name)}*"
    return sorted(p for p in beside.glob(names) if p.is_file())


def _digest(files: Sequence[Path]) -> str:
    """Return a digest of names and content of files."""
    found = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as stream:
                found.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()} ".encode())
        except OSError as fault:
            raise ConfigError(f"{path}: cannot read: {fault.strerror or said(fault)}") from None
    return found.hexdigest() if files else ""


def _shared(config: StudyConfig, model: StudyModel, seed: int, home: Path) -> dict[str, Json]:
    """Return what all cells of a model and seed have in common."""
    fields = ("data", "calibration", "evaluation", "skip", "also", "threads")
    told_config = config.model_dump(mode="json", include=set(fields))
    return {**told_config, "model": model.model_dump(mode="json"), "seed": seed, "home": str(home.absolute())}


def _key(job: Mapping[str, Json], digest: Sequence[str]) -> str:
    """Return a digest of a job, of what its files hold, and of what computes it."""
    facts = {name: value for name, value in job.items() if name != "home"}
    versions = [version_of(name) for name in ("mase-dse", "torch", "transformers")]
    text = json.dumps([SCHEMA, facts, [*digest], versions, platform.python_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# -- running them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Study:
    """What a study is about, and where it lies.

    Args:
        config: resolved. home: folder that its relative paths are relative to. folder: receives everything.
    """

    config: StudyConfig
    home: Path
    folder: Path

    def run(self, told_done: Told | None = None, say: Say = lambda text: None, retry: bool = False) -> page.Table:
        """Run the cells that are not done, and return the table; it is written anew after each cell.

        Args:
            told_done: is called after each cell. say: is told why a cell failed. retry: run failed cells again.

        Raises:
            ConfigError: the configuration is wrong, or the folder is another's.
        """
        every = cells(self.config, self.home)
        with self._locked():
            done = {cell: found for cell in every if (found := self._kept(cell, retry)) is not None}
            watch = Watch(len(every), told_done, len(done))
            alike: dict[str, list[Cell]] = {}  # cells of one key are run once
            for cell in every:
                if cell not in done:
                    alike.setdefault(cell.key, []).append(cell)
            for ran, found in self._finished([same[0] for same in alike.values()], done):
                done |= {cell: _labelled(found, cell) for cell in alike[ran.key]}
                if found.failed:
                    say(f"{ran}: {found.failed}")
                self._write(every, done)
                for cell in alike[ran.key]:
                    watch.done(str(cell))
            return self._write(every, done)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder, alone."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: this is a file; a folder is needed")
        others = [p.name for p in self.folder.iterdir() if p.name != LOCK] if self.folder.is_dir() else []
        if others and not (self.folder / CELLS).is_dir():
            raise ConfigError(f"{self.folder}: holds {min(others)!r} and no study; give an empty folder")
        (self.folder / CELLS).mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.folder}: another process is running this study") from None
            yield

    def _path(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.key}.json"

    def _kept(self, cell: Cell, retry: bool) -> Found | None:
        """Return what an earlier call found."""
        path = self._path(cell)
        if not path.is_file():
            return None
        data = json_text.read(path)
        json_text.check_schema(data, (SCHEMA,), str(path))
        found = _labelled(json_text.checked(Found, {k: v for k, v in data.items() if k != "schema"}, str(path)), cell)
        missing = cell.recipe == FLOAT and not found.failed and not (self.folder / KEPT / cell.base / TOKENS).is_file()
        return None if missing or (retry and found.failed) else found

    def _finished(self, todo: list[Cell], before: Mapping[Cell, Found]) -> Iterator[tuple[Cell, Found]]:
        """Run cells in processes, at most ``workers`` at a time, and yield each that ends."""
        floats = {cell.key: found for cell, found in before.items() if cell.recipe == FLOAT}
        running: dict[Cell, Worker] = {}
        try:
            while todo or running:
                for cell in [c for c in todo if c.recipe == FLOAT or c.base in floats]:
                    base = floats.get(cell.base)
                    if base is not None and base.failed:
                        todo.remove(cell)
                        yield cell, _failed(cell, f"the model was not scored in float: {base.failed}")
                    elif len(running) < self.config.workers:
                        todo.remove(cell)
                        running[cell] = self._started(cell)
                by_pipe = {worker.connection: cell for cell, worker in running.items()}
                for pipe in wait(list(by_pipe)) if by_pipe else []:
                    cell = by_pipe[pipe]  # type: ignore[index]  # what goes in comes out
                    found = _answer(cell, running.pop(cell))
                    write_atomic(self._path(cell), json.dumps({"schema": SCHEMA, **asdict(found)}, indent=1) + "\n")
                    if cell.recipe == FLOAT:
                        floats[cell.key] = found
                    yield cell, found
        finally:
            for worker in running.values():
                worker.process.kill()
                worker.process.wait()
                worker.connection.close()

    def _started(self, cell: Cell) -> Worker:
        places = {"kept": self.folder / KEPT / cell.base, "scratch": self.folder / CELLS / cell.key}
        config = {**cell.job, **{name: str(path.absolute()) for name, path in places.items()}}
        worker = spawn(EvaluatorSpec(EVALUATOR, config))
        worker.connection.send_bytes(b"{}")
        return worker

    def _write(self, every: Sequence[Cell], done: Mapping[Cell, Found]) -> page.Table:
        """Write the table as JSON, CSV, Markdown and as a page."""
        name = None if self.config.baseline is None else self.config.baseline.name
        found = [done[cell] for cell in every if cell in done]
        table = page.assemble(self.config.name, found, len(every), name)
        write_atomic(self.folder / TABLE, json.dumps(table.to_json(), indent=1) + "\n")
        write_atomic(self.folder / ROWS, page.csv_of(found))
        write_atomic(self.folder / TEXT, page.markdown(table))
        write_atomic(self.folder / PAGE, page.render(table))
        return table


def _answer(cell: Cell, worker: Worker) -> Found:
    """Return what a process found; its death is a reason of failure like others."""
    try:
        data = json.loads(worker.connection.recv_bytes())
    except (EOFError, OSError):
        data = {"failed": f"the process died ({_death(worker)})"}
    worker.process.kill()
    worker.process.wait()
    worker.connection.close()
    if "metrics" in data:
        return _labelled(json_text.checked(Found, data["metrics"], str(cell)), cell)
    return _failed(cell, data.get("refused") or data["failed"].strip().splitlines()[-1])


def _death(worker: Worker) -> str:
    code = worker.process.wait()
    return "signal 9, as where memory runs out" if code == -9 else f"exit code {code}"


def _failed(cell: Cell, reason: str) -> Found:
    return _labelled(Found(failed=line(reason, 300)), cell)


def _labelled(found: Found, cell: Cell) -> Found:
    return replace(found, model=cell.model, seed=cell.seed, recipe=cell.recipe, format=cell.format)


# -- in the process of a cell ------------------------------------------------------------------------------------------


def evaluator(config: Mapping[str, Json]) -> Evaluate:
    """Return what runs one cell, whatever the point."""
    return lambda point: run_cell(config)


def run_cell(config: Mapping[str, Json]) -> dict[str, Json]:
    """Run one cell in this process: fields of :class:`Found`.

    Args:
        config: the job of a cell, and where the model is ``kept`` and files that nobody keeps may lie.

    Raises:
        MaseError: it cannot be done; the reason.
    """
    torch.set_num_threads(config["threads"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = _quantized(config) if config["recipe"] else _float(config)
    notes = dict.fromkeys(line(str(w.message), 200) for w in seen if w.category is UserWarning)
    return {**found, "notes": tuple(notes)[:NOTES]}


def _float(config: Mapping[str, Json]) -> dict[str, Json]:
    """Score the model in float, after training it where that is asked for; keep weights and tokens."""
    from safetensors.torch import save

    kept, model = Path(config["kept"]), StudyModel(**config["model"])
    data = _data(config, model)
    text = _passage(data.test)
    tokens = {"calibration": _windows(config, data), "text": text.ids, "bytes": torch.tensor(text.bytes)}
    longest = max(config["evaluation"]["window"], config["calibration"]["length"])  # two of them are traced
    if len(text.ids) < 2 * longest:
        raise ConfigError(f"evaluation: the text holds {len(text.ids)} tokens; two windows of {longest} are needed")
    clock = _Clock()
    if model.folder is None:
        module = _module(config, model, data)
        write_atomic(kept / WEIGHTS, training.pack(module))
    write_atomic(kept / TOKENS, save({name: x.contiguous() for name, x in tokens.items()}))
    spent = clock.spent()
    return {**spent, **_score(config, _graph(config, tokens, config["evaluation"]["window"]), tokens)}


def _quantized(config: Mapping[str, Json]) -> dict[str, Json]:
    """Quantize the model and score it; time is that of the quantization, memory the most of the process until then."""
    tokens = _tokens(config)
    plan = Plan.of(config["recipe"], None, config["skip"], config["also"], seed=config["seed"])
    samples, window = tokens["calibration"], config["evaluation"]["window"]
    if config["model"]["folder"] is not None:
        scratch = Path(config["scratch"])
        if not (scratch / JOURNAL).is_file():  # half deleted when a process was killed
            shutil.rmtree(scratch, ignore_errors=True)
        clock = _Clock(scratch / SPENT)
        report = quantize_folder(Job(_folder(config), scratch, plan, samples, config["seed"]), clock.note)
        spent, bits = clock.spent(), (report.bits("stored_bits"), report.bits("paper_bits"))
        graph = load(scratch, window)
        shutil.rmtree(scratch)
    else:
        graph = _graph(config, tokens, samples.shape[1])
        clock = _Clock()
        graph, found = quantize(graph, plan, samples)
        spent, bits = clock.spent(), (found.stored_bits, found.paper_bits)
        if window != samples.shape[1]:
            whole = inserted(_graph(config, tokens, window).replace(tensors=dict(found.folded)), found.edges)
            graph = install(whole, found.packed)
    return {**spent, "stored_bits": bits[0], "paper_bits": bits[1], **_score(config, graph, tokens)}


@dataclass(frozen=True)
class _Spent:
    """What a quantization took so far."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mib: float = 0.0


class _Clock:
    """Seconds, and seconds of the processor, from its making on.

    Args:
        path: file that keeps what was spent, for the call that goes on; what an earlier one left there is added.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._before = path, _Spent()
        if path is not None and path.is_file():
            self._before = json_text.checked(_Spent, json_text.read(path), str(path))
        self._start = time.perf_counter(), time.process_time()

    def note(self, *_: object) -> None:
        """Keep what was spent; is called after each part."""
        assert self._path is not None
        write_atomic(self._path, json.dumps(self.spent()))

    def spent(self) -> dict[str, float]:
        """Return what was spent, and the greatest memory of the processes so far."""
        seconds, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        before, peak = self._before, max(self._before.peak_mib, peak_mib())
        return {"seconds": before.seconds + seconds, "cpu_seconds": before.cpu_seconds + cpu, "peak_mib": peak}


def _data(config: Mapping[str, Json], model: StudyModel) -> data_sets.Data:
    home, section = Path(config["home"]), config["data"]
    return data_sets.load(section["name"], {**section["options"], "tokens": _form(model, home)}, home)


def _form(model: StudyModel, home: Path) -> str:
    """Return the text form of a model's tokenizer."""
    if model.tokens == "auto":
        return "bytes" if model.folder is None else str(home / model.folder / "tokenizer.json")
    return str(home / model.tokens) if model.tokens.endswith(".json") else model.tokens


def _passage(split: data_sets.Split) -> Passage:
    assert isinstance(split, Passage)  # data sets that take tokens give texts
    return split


def _folder(config: Mapping[str, Json]) -> Path:
    return Path(config["home"], config["model"]["folder"])


def _module(config: Mapping[str, Json], model: StudyModel, data: data_sets.Data) -> nn.Module:
    """Return a model of our own, trained where that is asked for."""
    assert model.name is not None and data.tokenizer is not None
    seed, home, name, options = config["seed"], Path(config["home"]), model.name, model.options

    def made() -> nn.Module:
        return build(name, options, home)

    torch.manual_seed(seed)
    module = made().eval()
    vocabulary = training.scored(module(torch.zeros(1, 1, dtype=torch.int64)), None).shape[-1]
    if vocabulary < data.tokenizer.size:
        raise ConfigError(f"model {name}: its vocabulary has {vocabulary}; the text has {data.tokenizer.size} tokens")
    return module if model.train is None else training.trained(made, data, model.train, seed)


def _windows(config: Mapping[str, Json], data: data_sets.Data) -> Tensor:
    """Return calibration samples, drawn by the seed from the train split."""
    samples, length = config["calibration"]["samples"], config["calibration"]["length"]
    ids = _passage(data.train).ids
    rows = ids[: len(ids) // length * length].view(-1, length)
    if len(rows) < samples:
        raise ConfigError(f"calibration: the text holds {len(rows)} samples of {length} tokens; asked are {samples}")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config["seed"]))
    return rows[order[:samples].sort().values]


def _tokens(config: Mapping[str, Json]) -> dict[str, Tensor]:
    path = Path(config["kept"]) / TOKENS
    return tensor_file.parse(file.content(path, LARGEST, GraphError), str(path))


def _graph(config: Mapping[str, Json], tokens: Mapping[str, Tensor], length: int) -> Graph:
    """Return the float model as a graph for samples of a length."""
    model = StudyModel(**config["model"])
    if model.folder is not None:
        checkpoint, made = Checkpoint(_folder(config)), skeleton(_folder(config), length)
        return made.whole({i: made.filled(made.part(i), checkpoint) for i in range(made.total)}).verify()
    assert model.name is not None
    module = build(model.name, model.options, Path(config["home"])).eval()
    path = Path(config["kept"]) / WEIGHTS
    training.unpack(module, file.content(path, LARGEST, GraphError), str(path))
    return trace(module, tokens["text"][: 2 * length].view(2, length))[0]


def _score(config: Mapping[str, Json], graph: Graph, tokens: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the loss of a token on the test split, and bits per byte."""
    asked, ids = config["evaluation"], tokens["text"]
    passage = Passage(ids[:-1], ids[1:], ids=ids, bytes=int(tokens["bytes"]))
    found = perplexity(graph, passage, asked["window"], asked["stride"], asked["batch"], asked["tokens"])
    loss = found.nats / found.tokens
    if not math.isfinite(loss):
        raise GraphError(f"score: the loss of a token is {loss}; a finite one is needed")
    return {"loss": loss, "bits_per_byte": found.bits_per_byte}
