"""The command line. Exit code 0 only when all that was asked holds; 1 when a proof fails; 2 on bad input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from mase.doors.file import place
from mase.errors import MaseError, RtlFault, line

if TYPE_CHECKING:
    from mase.flow import Notices, Outcome
    from mase.report.study import Table as StudyTable
    from mase.report.trace import Traced
    from passes.ptq.engine import LayerReport
    from passes.ptq.folder import FolderReport

# The base of all that a wrong command line raises, from wherever this version of typer keeps it.
REFUSAL: type[Any] = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended

app = typer.Typer(
    name="mase",
    help="Find number formats and hardware for a PyTorch model; emit the accelerator; prove it bit for bit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _place(what: str) -> Callable[[str], Path]:
    """Return what reads a path of the command line; an empty one would be the current folder."""
    return lambda text: place(text, what)


Config = Annotated[
    Path,
    typer.Argument(
        parser=_place("configuration"), metavar="CONFIG", help="YAML configuration, or the folder of an earlier run"
    ),
]
Folder = Annotated[Path, typer.Argument(parser=_place("folder"), metavar="FOLDER", help="folder of a finished run")]
Out = Annotated[
    Path | None,
    typer.Option("--out", parser=_place("--out"), metavar="PATH", help="run folder; runs/<name> by default"),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value that replaces a field of the configuration, such as search.trials=8"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on standard output")]
DataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        parser=_place("--data"),
        metavar="PATH",
        help="file of samples: .npy, .npz, .csv or .safetensors; without it, the test split",
    ),
]
Dump = Annotated[
    Path | None,
    typer.Option(
        "--dump",
        parser=_place("--dump"),
        metavar="PATH",
        help="folder that receives every intermediate tensor as a .npy file",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"mase-dse {version('mase-dse')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and stop")
    ] = False,
) -> None:
    """Find number formats and hardware for a PyTorch model; emit the accelerator; prove it bit for bit."""


def main() -> None:
    """Run the command line and exit."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are one line on standard error."""
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="mase", standalone_mode=False)
        if result == INTERRUPTED:
            return _interrupted()
        return result if isinstance(result, int) else 0
    except typer.Exit as done:  # newer versions of typer turn Ctrl-C into this
        return _interrupted() if done.exit_code == INTERRUPTED else done.exit_code
    except RtlFault as error:
        return _fail(str(error), 1)
    except MaseError as error:
        return _fail(str(error), 2)
    except REFUSAL as error:
        text = error.format_message()
        return _fail(text, 2) if text.strip() else 2  # without a text it was help that was shown
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that may not be written: nobody's bug
        return _fail(f"{error.filename or 'system'}: {error.strerror or error}", 2)


def _interrupted() -> int:
    return _fail("interrupted; the same command continues where this one stopped", INTERRUPTED)


def _fail(text: str, code: int) -> int:
    print(f"mase: {line(text)}", file=sys.stderr)
    return code


# -- commands that walk the road ---------------------------------------------------------------------------------------


@app.command()
def run(
    config: Config,
    out: Out = None,
    set_: Set = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print sizes and an estimate of the time, and stop")
    ] = False,
) -> int:
    """Run every stage: train, search, build, emit, simulate, synthesize, report.

    [bold]Examples[/]

        mase run configs/quickstart.yaml

        mase run configs/quickstart.yaml --set search.trials=8 --set name=small --json

        mase run configs/quickstart.yaml --dry-run
    """
    if dry_run:
        return _dry(config, set_ or [], as_json)
    done = _upto(config, out, set_, "report", as_json)
    assert done.report is not None and done.proof is not None
    from mase.report.summary import to_json

    _give(to_json(done.report), as_json, lambda: _headline(done))
    return 0 if done.proof.ok and not done.lint_warnings else 1


@app.command()
def trace(
    config: Config,
    out: Out = None,
    set_: Set = None,
    svg: Annotated[
        Path | None,
        typer.Option(
            "--svg", parser=_place("--svg"), metavar="PATH", help="file for a picture of the graph (SVG) (SVG)"
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            parser=_place("--html"),
            metavar="PATH",
            help="file for an HTML page: totals, the graph module by module, and all nodes",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Trace the model; print its nodes with their operations, parameters and memory, and name unrecognised operations.

    Nothing is trained: the weights come from an earlier run, from a file, or from the model as built. Formats are
    optional. All figures are for one sample. "Live" counts the bytes of activations in use while the node runs.

    [bold]Examples[/]

        mase trace configs/quickstart.yaml

        mase trace configs/quickstart.yaml --svg graph.svg --html graph.html
    """
    from mase.flow import open_run
    from mase.report import trace as page
    from passes.base import PASSES

    with _Screen(as_json) as screen:
        made = open_run(config, out, screen.notices(), set_ or [], formats=False)
        graph = made.look()
    found = {name: PASSES[name](graph)[1].to_json() for name in ("shapes", "flops", "parameters", "liveness")}
    traced = page.assemble(made.config.name, graph, made.traced, found)
    if html is not None:
        page.write(traced, html)
    if svg is not None and page.write_svg(traced.graph, svg):
        print(f"{svg}: there are too many nodes for one picture, so each module stands for its nodes", file=sys.stderr)
    data = {"nodes": [vars(row) for row in traced.rows], **found, "trace": made.traced.to_json()}
    _give(data, as_json, lambda: _show_trace(traced, str(made.traced)))
    return 0


def _show_trace(traced: Traced, report: str) -> None:
    heads = ["path", "kind", "shape", "MACs", "parameters", "bytes", "live"]
    rows = [
        [r.path, r.kind, "x".join(map(str, r.shape)), "?" if r.macs is None else r.macs, r.parameters, r.bytes, r.live]
        for r in traced.rows
    ]
    _table("nodes", heads, rows)
    print("\n".join(f"{label}: {value:,}" for label, value in traced.totals.items()))
    if traced.unknown:
        print(f"these operations are unknown and left out of the sums: {', '.join(traced.unknown)}")
    print(report)


@app.command()
def search(config: Config, out: Out = None, set_: Set = None, as_json: AsJson = False) -> int:
    """Search formats, or continue a search; print the Pareto front and the chosen design.

    [bold]Example[/]: mase search configs/quickstart.yaml --set search.trials=96
    """
    done = _upto(config, out, set_, "search", as_json)
    if done.study is None or done.chosen is None:
        return _fail(f"{config}: has no search section", 2)
    from mase.explore.export import pareto_json

    name, chosen = done.study.objectives[0].name, done.chosen
    found = pareto_json(done.study.trials, done.study.space, done.study.objectives, done.study.constraints)
    found["chosen"] = chosen.number
    column, head, digits = ("bits", "bits", 3) if "density" in chosen.metrics else ("cost", "LUT-eq.", 0)
    within = [t for t in done.study.trials if t.feasible(done.study.constraints)]
    rows = [
        [t.number, f"{t.metrics[name]:.4f}", f"{t.metrics[column]:.{digits}f}", "chosen" if t is chosen else ""]
        for t in sorted(within, key=lambda t: (t.metrics[done.least], t.number))[:12]
    ]
    title = "cheapest within tolerance" if done.least == column else f"least {name} within the bits"
    _give(found, as_json, lambda: _table(title, ["trial", name, head, ""], rows))
    return 0


@app.command()
def quantize(config: Config, out: Out = None, set_: Set = None, as_json: AsJson = False) -> int:
    """Build the quantized, mapped graph (after the search, where the configuration has one) and print its formats.

    [bold]Example[/]: mase quantize configs/quickstart.yaml --out runs/q
    """
    from mase.dataflow.work import named

    done = _upto(config, out, set_, "build", as_json)
    assert done.built is not None
    rows = []
    for node in done.built.operators():
        weight = node.record.operands.get("weight")
        hw = node.record.hw
        fold = named(hw.fold) if hw else ""
        rows.append([node.path, node.kind, str(weight.format) if weight else "", str(node.record.output.format), fold])
    heads = ["path", "kind", "weight", "output", "folding"]
    data = {"nodes": [dict(zip(heads, row, strict=True)) for row in rows], "validation": done.chosen_validation}
    _give(data, as_json, lambda: _table(f"{done.metric} {done.chosen_validation:.4f} (validation)", heads, rows))
    return 0


@app.command()
def emit(config: Config, out: Out = None, set_: Set = None, as_json: AsJson = False) -> int:
    """Write the accelerator: SystemVerilog, memories, file lists, wrapper, vectors.

    [bold]Example[/]: mase emit configs/quickstart.yaml
    """
    done = _upto(config, out, set_, "emit", as_json)
    assert done.design is not None
    data = {"folder": str(done.design.folder), "top": done.design.top, "cycles": done.design.manifest["cycles"]}
    _give(data, as_json, lambda: print(f"{done.design.folder}: top {done.design.top}" if done.design else ""))
    return 0


@app.command()
def simulate(folder: Folder, data: DataFile = None, dump: Dump = None, as_json: AsJson = False) -> int:
    """Run samples through the emitted RTL of a run, and print the measured cycles and the activity of each edge.

    [bold]Example[/]: mase simulate runs/quickstart --data x.npy --json
    """
    from emit.sim import simulate as run_rtl
    from mase.files import write_atomic
    from mase.flow import finished

    _, design, x = finished(folder, data)
    result = run_rtl(design, x)
    if dump is not None:
        for edge in design.edges:
            write_atomic(dump / f"{edge.signal}.npy", _npy(edge.decode(result.codes[edge.name]).numpy()))
    activity = {design.titles[edge.name]: vars(result.edges[edge.name]) for edge in design.edges}
    found = {
        "samples": len(x[0]),
        "first_output_cycles": result.first_output,
        "latency_cycles": result.latency,
        "interval_cycles": float(result.interval),
        "outputs": {
            port.name: {
                "first_output_cycles": c.first,
                "latency_cycles": c.latency,
                "interval_cycles": float(c.interval),
            }
            for port, c in zip(design.outputs, result.cycles.each, strict=True)
        },
        "edges": activity,
    }
    rows = [[path, a["beats"], a["stalled"], a["idle"]] for path, a in activity.items()]
    title = f"{len(x[0])} samples: latency {result.latency}, interval {float(result.interval):g} cycles"
    _give(found, as_json, lambda: _table(title, ["edge", "beats", "stalled", "idle"], rows))
    return 0


@app.command()
def verify(
    folder: Folder,
    data: DataFile = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", parser=_place("--junit"), metavar="PATH", help="write the result as JUnit XML"),
    ] = None,
    window: Annotated[
        Path | None,
        typer.Option(
            "--window",
            parser=_place("--window"),
            metavar="PATH",
            help="folder that receives a waveform around the first difference",
        ),
    ] = None,
    dump: Dump = None,
    as_json: AsJson = False,
) -> int:
    """Prove again that model and RTL agree on every named edge; where they differ, name the place and write a waveform.

    [bold]Examples[/]

        mase verify runs/quickstart

        mase verify runs/quickstart --data mine.npy --junit proof.xml --dump tensors
    """
    from emit import verify as proving
    from mase.flow import finished
    from mase.interpreter import run as interpret

    built, design, x = finished(folder, data)
    proof = proving.prove(built, design, x)
    if junit is not None:
        proving.junit(proof, junit)
    if dump is not None:
        proving.dump(interpret(built, x, keep=True), dump)
    seen = None if proof.ok else proving.window(design, x, proof, window or folder)
    extra = {"window": None if seen is None else str(seen.file)}

    def show() -> None:
        print(proving.explain(proof))
        if seen is not None:
            window = f"cycles {seen.start} to {seen.end}"
            print(f"waveform: {seen.file}, {window}; the beat moves in {seen.cycle} on {seen.signal}")

    _give({**proof.to_json(), **extra}, as_json, show)
    return 0 if proof.ok else 1


@app.command()
def compare(
    folder: Folder,
    data: DataFile = None,
    rtl: Annotated[
        Path | None,
        typer.Option(
            "--rtl",
            parser=_place("--rtl"),
            metavar="PATH",
            help="emitted folder to compare, such as an edited copy; the run's own by default",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare every wire of the RTL, the inner ones too, and name the first block and element that differ.

    That element comes with its operands, the accumulator, and how it is rounded.

    [bold]Examples[/]

        mase compare runs/quickstart

        mase compare runs/quickstart --rtl edited --json

        mase compare runs/quickstart/rtl --data mine.npy
    """
    from emit.compare import compare as all_wires
    from emit.design import Design
    from mase.flow import finished

    inner = (folder / "design.json").is_file()  # the emitted folder of a run
    built, design, x = finished(folder.parent if inner else folder, data)
    found = all_wires(built, design if rtl is None else Design.load(rtl), x)
    _give(found.to_json(), as_json, lambda: print(found))
    return 0 if found.ok else 1


@app.command()
def synth(
    folder: Folder,
    target: Annotated[str | None, typer.Option("--target", help="device; the run's own by default")] = None,
    as_json: AsJson = False,
) -> int:
    """Synthesize the emitted RTL of a run with Yosys and print its resources beside the predicted ones.

    [bold]Example[/]: mase synth runs/quickstart --target ecp5
    """
    from emit.design import Design
    from emit.synth import synthesize
    from mase import config as configuration
    from mase.cost.estimate import estimate_graph
    from mase.graph import Graph

    hardware = configuration.load(folder / "config.yaml", own=True).hardware
    name = target or hardware.target
    predicted = estimate_graph(Graph.load(folder / "best"), name, hardware.clock_mhz).resources
    result = synthesize(Design.load(folder / "rtl"), name)
    found = result.resources
    rows = [
        [k.upper(), f"{getattr(predicted, k):.0f}", f"{getattr(found, k):.0f}"] for k in ("lut", "ff", "dsp", "bram")
    ]
    data = {"target": name, "predicted": vars(predicted), "synthesised": vars(found), "tool": result.tool}
    _give(data, as_json, lambda: _table(f"{name}, {result.tool}", ["", "predicted", "synthesised"], rows))
    return 0


@app.command()
def report(folder: Folder, as_json: AsJson = False) -> int:
    """Write the report.html of a run again from its report.json.

    [bold]Example[/]: mase report runs/quickstart
    """
    from mase.report import html, summary

    content = summary.load(folder / "report.json")
    html.write(content, folder / "report.html")
    _give(summary.to_json(content), as_json, lambda: print(folder / "report.html"))
    return 0


@app.command()
def ptq(
    what: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML configuration, or the word `check` or `export`")],
    folder: Annotated[
        Path | None,
        typer.Argument(parser=_place("folder"), metavar="FOLDER", help="quantized folder, behind `check` or `export`"),
    ] = None,
    out: Out = None,
    set_: Set = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="LAYOUT", help="of an export: compressed-tensors, gptq or gguf"),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Quantize the weights of a language model from disk to disk, block by block; check or export a quantized folder.

    A call that was killed goes on at the last finished block. A check loads the packed file and compares it with what
    was scored, and with what the graph computes: every weight, and logits. An export writes what other tools load, and
    a check of that decodes it as they do.

    [bold]Examples[/]

        mase ptq ptq.yaml --out runs/tiny

        mase ptq ptq.yaml --set recipe=[rtn]

        mase ptq check runs/tiny

        mase ptq export runs/tiny --to gptq --out runs/tiny-gptq
    """
    if what == "check":
        return _check_folder(folder, as_json)
    if what == "export":
        return _export_folder(folder, to, out, as_json)
    if folder is not None or to is not None:
        odd = f"{str(folder)!r}" if folder is not None else "--to"
        return _fail(f"ptq: found {odd} behind a configuration; allowed is CONFIG, check FOLDER, export FOLDER", 2)
    from dataclasses import asdict

    from mase.flow import ptq_job
    from passes.ptq.folder import quantize_folder

    with _Screen(as_json) as screen:
        job = ptq_job(place(what, "configuration"), out, set_ or [])
        with screen.warnings():
            found = quantize_folder(job, screen.part)
    bits = {name: found.bits(name) for name in ("stored_bits", "paper_bits")}
    data = {"folder": str(job.target), **bits, "seconds": found.seconds, "peak_mib": found.peak_mib, "kept": found.kept}
    _give({**data, "layers": [asdict(row) for row in found.layers]}, as_json, lambda: _show_ptq(job.target, found))
    return 0


def _show_ptq(target: Path, found: FolderReport) -> None:
    groups: dict[tuple[str, tuple[str, ...]], list[LayerReport]] = {}
    for row in found.layers:
        groups.setdefault((row.path.rpartition(".")[2].partition("[")[0], row.formats), []).append(row)
    rows = []
    for (name, formats), group in groups.items():
        seen = [row.output_error for row in group if row.output_error is not None]
        output = f"{sum(seen) / len(seen):.3e}" if seen else "-"
        weight = sum(row.weight_error for row in group) / len(group)
        bits = sum(row.stored_bits for row in group) / len(group)
        rows.append([name, len(group), ", ".join(formats), f"{bits:.3f}", f"{weight:.3e}", output])
    _table(str(target), ["layer", "count", "formats", "stored bits", "weight error", "output error"], rows)
    for row in found.layers:
        if row.note:
            print(f"{row.path}: {row.note}")
    mean = f"{found.bits('stored_bits'):.3f} stored bits, {found.bits('paper_bits'):.3f} paper bits"
    print(f"{found.elements:,} weights, {mean}")
    print(f"{found.seconds:.1f} s, at most {found.peak_mib:.0f} MiB; {found.kept} parts were done before")


def _check_folder(folder: Path | None, as_json: bool) -> int:
    """Compare packed, scored and emulated; exit code 1 where they differ."""
    from dataclasses import asdict

    from passes.ptq.export.base import RECORD
    from passes.ptq.folder import check

    if folder is None:
        return _fail("ptq check: the folder is missing; allowed is check FOLDER", 2)
    if (folder / RECORD).is_file():
        return _check_export(folder, as_json)
    found = check(folder)

    def show() -> None:
        for text, paths in (("scored", found.scored), ("emulated", found.emulated)):
            print(f"weights: {found.layers - len(paths)} of {found.layers} layers are packed as {text}")
            for path in paths[:12]:
                print(f"  differs: {path}")
        for text, same in (("packed", found.packed_logits), ("emulated", found.emulated_logits)):
            print(f"logits: {text} {'equal' if same else 'differ from'} those that were scored")
        if not found.ok:
            print(f"greatest difference of a logit: {found.worst:.3g}")

    _give({**asdict(found), "ok": found.ok}, as_json, show)
    return 0 if found.ok else 1


def _check_export(folder: Path, as_json: bool) -> int:
    """Decode an exported folder as its tool does; exit code 1 where it is not what was packed."""
    from dataclasses import asdict

    from passes.ptq.export.base import check

    found = check(folder)

    def show() -> None:
        print(f"{found.to}: {found.layers - len(found.differ)} of {found.layers} matrices are as packed")
        print(f"decoded by {found.loader}")
        for name in (*found.differ, *found.floats)[:12]:
            print(f"  differs: {name}")

    _give({**asdict(found), "ok": found.ok}, as_json, show)
    return 0 if found.ok else 1


def _export_folder(folder: Path | None, to: str | None, out: Path | None, as_json: bool) -> int:
    """Write a quantized folder in the layout of another tool."""
    from dataclasses import asdict

    from passes.ptq.export.base import EXPORTS, chosen, export

    names = ", ".join(name.replace("_", "-") for name in EXPORTS)
    if folder is None or to is None:
        return _fail(f"ptq export: needs a folder and a layout; allowed is export FOLDER --to, one of {names}", 2)
    chosen(to)
    source = folder.resolve()
    target = out or source.parent / f"{source.name}-{to}"
    found = export(folder, to, target)

    def show() -> None:
        print(f"{target}: {found.layers} matrices, {found.bytes / 2**20:.1f} MiB")
        print(f"{found.to} computes them in {', '.join(found.computes_in)}: equal to what is packed, bit for bit")

    _give({"folder": str(target), **asdict(found)}, as_json, show)
    return 0


@app.command()
def study(
    config: Config,
    out: Out = None,
    set_: Set = None,
    retry: Annotated[bool, typer.Option("--retry", help="run cells that failed again")] = False,
    as_json: AsJson = False,
) -> int:
    """Quantize models by several recipes in several formats; print and plot loss, bits, time and memory in one table.

    Each cell runs in a process of its own. What is done stays done: the same command goes on behind the last finished
    cell, also with a longer configuration. A cell that fails is told with its reason, and the others go on.

    [bold]Examples[/]

        mase study configs/study/tiny_llama.yaml

        mase study configs/study/tiny_llama.yaml --set workers=4 --set seeds=[0]
    """
    from mase import studyconfig
    from passes.ptq.study import PAGE, Study

    loaded = studyconfig.load(config, set_ or [])
    folder = Path("runs") / loaded.name if out is None else out
    with _Screen(as_json) as screen:
        table = Study(loaded, config.parent, folder).run(screen.part, screen.notices().say, retry)
    _give({"folder": str(folder), **table.to_json()}, as_json, lambda: _show_study(table, folder / PAGE))
    return 1 if table.failed else 0


def _show_study(table: StudyTable, page: Path) -> None:
    from mase.report.study import figure

    heads = ["recipe", "format", "seeds", "bits", "stored", "bits/byte", "perplexity", "closed", "CPU s", "MiB"]
    for model in table.models:
        rows = []
        for row in table.rows:
            if row.model == model:
                bits = [figure(row.paper_bits, 2), figure(row.stored_bits, 2), figure(row.bits_per_byte)]
                closed = "-" if row.closed is None else f"{row.closed:.0%}"
                cost = [figure(row.cpu_seconds, 1), figure(row.peak_mib, 0)]
                rows.append([row.recipe, row.format, row.seeds, *bits, f"{row.perplexity:.4g}", closed, *cost])
        _table(model, heads, rows)
    if table.baseline is not None:
        print(f"closed: how much of the perplexity that {table.baseline} loses at as many stored bits is not lost")
    for found in table.failed:
        print(f"failed: {found.model} {found.seed} {found.recipe} {found.format}: {found.failed}")
    print(page)


# -- commands that look around -----------------------------------------------------------------------------------------

WHAT = "formats, passes, ops, models, data, strategies or devices"


@app.command("list")
def list_(what: Annotated[str, typer.Argument(help=WHAT)], as_json: AsJson = False) -> int:
    """Print the known formats, passes, ops, models, data, strategies or devices.

    [bold]Example[/]: mase list formats
    """
    from mase.errors import UnknownName

    tables = _tables()
    if what not in tables:
        raise UnknownName("list", what, tables)
    heads, rows = tables[what]()
    _give([dict(zip(heads, row, strict=True)) for row in rows], as_json, lambda: _table(what, heads, rows))
    return 0


@app.command()
def schema() -> int:
    """Print the JSON schema of a configuration, for editors that complete YAML.

    [bold]Example[/]: mase schema > mase.schema.json
    """
    from mase.config import schema as of_config

    print(json.dumps(of_config(), indent=1))
    return 0


@app.command()
def doctor(
    warm: Annotated[bool, typer.Option("--warm", help="compile now what all later runs share")] = False,
    as_json: AsJson = False,
) -> int:
    """Print which tools are installed, which are missing, and how to install them.

    [bold]Example[/]: mase doctor
    """
    from dataclasses import asdict

    from emit import tools

    found = tools.doctor()
    rows = [
        [
            t.name,
            "yes" if t.found else ("no (optional)" if t.optional else "NO"),
            t.version,
            t.needed_for,
            "" if t.found else t.how_to_get,
        ]
        for t in found
    ]
    heads = ["tool", "found", "version", "needed for", "how to get it"]
    _give([asdict(t) for t in found], as_json, lambda: _table("tools", heads, rows))
    if warm:
        from emit import sim

        sim.warm()
        tools.warm()
    return 0 if all(t.found or t.optional for t in found) else 1


@app.command()
def cache(
    clean: Annotated[bool, typer.Option("--clean", help="remove all entries")] = False,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="remove entries that were not used for this many days")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show the cache of compiled simulations, and remove all of it or its old entries.

    [bold]Examples[/]

        mase cache --older-than 30

        mase cache --clean
    """
    import shutil
    import time

    from mase.paths import cache_dir

    folder, days = cache_dir(), 0.0 if clean else older_than
    rows = []
    for part in sorted(p for p in folder.glob("*") if p.is_dir()):
        entries = [part] if clean else [entry for entry in part.iterdir() if entry.is_dir()]
        old = [e for e in entries if days is not None and (clean or time.time() - _last_used(e) > 86400 * days)]
        rows.append([part.name, *_size([part]), _size(old)[1]])
        for entry in old:
            shutil.rmtree(entry)
    heads = ["part", "files", "MiB", "removed MiB"]
    data = {"folder": str(folder), "cleaned": clean, "parts": [dict(zip(heads, row, strict=True)) for row in rows]}
    _give(data, as_json, lambda: _table(str(folder), heads, rows))
    return 0


def _size(folders: Sequence[Path]) -> tuple[int, float]:
    """Return the number of files in some folders, and their MiB."""
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    return len(files), round(sum(f.stat().st_size for f in files) / 2**20, 1)


def _last_used(folder: Path) -> float:
    """Return when a file of a folder was last written or read, in seconds of the system's clock."""
    stats = [f.stat() for f in (folder, *folder.rglob("*")) if f.exists()]
    return max(max(stat.st_mtime, stat.st_atime if not S_ISDIR(stat.st_mode) else 0.0) for stat in stats)


formats_app = typer.Typer(help="Look at number formats.", no_args_is_help=True)
app.add_typer(formats_app, name="formats")


@formats_app.command()
def plot(
    formats: Annotated[list[str], typer.Argument(help="text forms, such as mxint4b16; `mase list formats` shows them")],
    out: Annotated[
        Path, typer.Option("--out", parser=_place("--out"), metavar="PATH", help="SVG file to write")
    ] = Path("formats.svg"),
) -> int:
    """Draw the value grid and the error curve of up to eight formats.

    [bold]Example[/]: mase formats plot mxint4b16 e4m3 int4 --out formats.svg
    """
    from mase.calib.fit import closed
    from mase.formats.plots import plot as draw

    print(draw([closed(text) for text in formats], out))
    return 0


Rows = tuple[list[str], list[list[Any]]]


def _tables() -> Mapping[str, Callable[[], Rows]]:
    def first(thing: object) -> str:
        return ((getattr(thing, "__doc__", "") or "").strip().splitlines() or [""])[0]

    def formats() -> Rows:
        from mase.formats import FORMATS

        return ["name", "example", "what"], [[name, str(cls()), first(cls)] for name, cls in FORMATS.items()]

    def passes() -> Rows:
        from passes.base import PASSES

        rows = [[n, ", ".join(p.requires), ", ".join(p.provides), first(p.run)] for n, p in PASSES.items()]
        return ["name", "requires", "provides", "what"], rows

    def ops() -> Rows:
        from mase.ops.base import OPS, HardwareOp

        return ["name", "hardware", "what"], [
            [n, "yes" if issubclass(op, HardwareOp) else "no", first(op)] for n, op in OPS.items()
        ]

    def models() -> Rows:
        from mase.models.base import MODELS

        return ["name", "what"], [[name, first(build)] for name, build in MODELS.items()]

    def data() -> Rows:
        from mase.data.base import DATASETS

        return ["name", "what"], [[name, first(load)] for name, load in DATASETS.items()]

    def strategies() -> Rows:
        from mase.explore.strategy import STRATEGIES

        return ["name", "what"], [[name, first(entry)] for name, entry in STRATEGIES.items()]

    def devices() -> Rows:
        from mase.cost.device import DEVICES

        heads = ["name", "part", "family", "LUT", "FF", "DSP", "BRAM18", "LUTs a DSP", "LUTs a BRAM18"]
        return heads, [
            [d.name, d.part, d.family, d.lut, d.ff, d.dsp, d.bram, d.dsp_weight, d.bram_weight]
            for d in DEVICES.values()
        ]

    return {f.__name__: f for f in (formats, passes, ops, models, data, strategies, devices)}


# -- showing -----------------------------------------------------------------------------------------------------------


def _upto(config: Path, out: Path | None, overrides: list[str] | None, last: str, quiet: bool) -> Outcome:
    """Do the stages of a run with progress on standard error."""
    from mase.flow import open_run, upto

    with _Screen(quiet) as screen:
        return upto(open_run(config, out, screen.notices(), overrides or []), last)


class _Screen:
    """Show stages and trials on standard error: live on a terminal, a line each elsewhere."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, quiet=quiet)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        live = self._console.is_terminal  # elsewhere even an empty display leaves a line
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not live)
        self._task: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def notices(self) -> Notices:
        from mase.flow import Notices

        return Notices(self._stage, self._trial, lambda text: self._console.print(text, markup=False, highlight=False))

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Show warnings as one line each."""
        import warnings

        def show(message: Any, *_: object) -> None:
            self._console.print(line(str(message)), markup=False, highlight=False)

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show  # type: ignore[assignment]  # called with more than is shown
            yield

    def part(self, done: int, total: int, name: str, left: float | None) -> None:
        """Say how far a walk over blocks is."""
        text = f"{name}: {done} of {total}" + (f", {left:.0f} s left" if left is not None else "")
        if self._task is None:
            self._task = self._progress.add_task(text, total=total)
        self._progress.update(self._task, total=total, completed=done, description=text)
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False)

    def _stage(self, name: str, what: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if what == "start":
            self._task = self._progress.add_task(name, total=None)
        else:
            self._console.print(f"{name:<12} {what}", markup=False, highlight=False)

    def _trial(self, trial: Any, total: int) -> None:
        if self._task is not None:
            from mase.metrics.scores import NAMES

            metrics = trial.metrics
            name = next(name for name in metrics if name in NAMES)
            price = f"cost {metrics['cost']:.0f}" if "cost" in metrics else f"{metrics['bits']:.3f} bits"
            text = f"search: {name} {metrics[name]:.4f}, {price}"
            self._progress.update(self._task, total=total, completed=trial.number + 1, description=text)


def _give(data: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(data, indent=1, default=str))
    else:
        show()


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for i, head in enumerate(heads):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def _headline(done: Outcome) -> None:
    report, proof = done.report, done.proof
    assert report is not None and proof is not None
    from emit.verify import explain

    print(explain(proof))
    found = report.resources
    rows = [
        [
            k.upper(),
            f"{getattr(found, k).predicted:.0f}",
            "-" if getattr(found, k).synthesised is None else f"{getattr(found, k).synthesised:.0f}",
        ]
        for k in ("lut", "ff", "dsp", "bram")
    ]
    _table(f"{found.target}", ["", "predicted", f"by {found.synthesised_by or 'synthesis'}"], rows)
    a = report.accuracy
    bound = f" (at most {a.tolerance:g} lower was allowed on this split)" if report.search is not None else ""
    print(f"validation {a.metric}: float {a.float_validation:.4f}, accelerator {a.chosen_validation:.4f}{bound}")
    print(f"test {a.metric}: float {a.float:.4f}, accelerator {a.chosen:.4f}; lint warnings: {done.lint_warnings}")


def _dry(config: Path, overrides: list[str], as_json: bool) -> int:
    import tempfile

    from mase.flow import open_run, sizes

    with tempfile.TemporaryDirectory(prefix="mase-dry-") as folder:  # nothing is left behind
        found = sizes(open_run(config, folder, None, overrides))
    _give(
        found,
        as_json,
        lambda: _table("dry run (times are estimates)", ["what", "value"], [[k, v] for k, v in found.items()]),
    )
    return 0


def _npy(x: Any) -> bytes:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, x, allow_pickle=False)
    return file.getvalue()


if __name__ == "__main__":
    main()
