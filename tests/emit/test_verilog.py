"""The emitted folder: legal whatever the names, small whatever the weights, the same each time, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emit.design import Design
from emit.lint import lint
from emit.names import LONGEST, Names, identifier
from emit.sim import Job, simulate_many
from emit.verilog import emit
from mase.blocks.requantize import RequantizeBlock
from mase.dataflow.block import MemoryImage
from mase.errors import GraphError, MaseError, UnsupportedOp
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.netlist import build
from mase.paths import hw_dir
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import Network, corners
from tests.emit.proof import Case, prove

ROOT = Path(__file__).resolve().parents[2]
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def graph(sizes: tuple[int, ...] = (5, 4, 3), output: str = "mxint5b4e3", lanes: int = 2) -> Graph:
    """Return a mapped chain of linear layers with ReLUs fused in."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    paths = [str(i) for i in range(0, len(layers), 2)]
    formats = {path: NodeFormats("int4c", output=output) for path in paths}
    network = Network(
        "chain", layers, torch.randn(4, sizes[0]), "fixed6.4", formats, dict.fromkeys(paths, Folding(lanes, lanes))
    )
    quantized = network.quantized()
    return map_graph(quantized, MapConfig(folding=network.folding))[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- the same every time ----------------------------------------------------------------------------------------------


def test_emitting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    mapped = graph()
    mapped.save(tmp_path / "graph")
    first = contents(emit(mapped, tmp_path / "a", "chain").folder)
    assert contents(emit(Graph.load(tmp_path / "graph"), tmp_path / "b", "chain").folder) == first
    assert contents(emit(mapped, tmp_path / "a", "chain").folder) == first  # in place of itself
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "graph"]


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    mapped = graph()
    mapped.save(tmp_path / "graph")
    here = contents(emit(mapped, tmp_path / "here", "chain").folder)
    code = "from emit.verilog import emit; from mase.graph import Graph; from sys import argv; "
    code += "emit(Graph.load(argv[1]), argv[2], 'chain')"
    env = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "graph", tmp_path / "there"], check=True, env=env, cwd=tmp_path
    )
    assert contents(tmp_path / "there") == here


def test_nothing_tells_where_or_when_it_was_written(tmp_path: Path) -> None:
    files = contents(emit(graph(), tmp_path / "somewhere", "chain").folder)
    text = b"\n".join(files.values())
    assert str(tmp_path).encode() not in text
    assert b"somewhere" not in text


# -- names ------------------------------------------------------------------------------------------------------------

HOSTILE = [
    'a"b', "endmodule", "module", "größe", "··/up", "a/b", "x" * 300, "x" * 299 + "y", "a b", "a_b",
    "A_B", "clk_i", "guard",
    "unused_last", "'; $finish; //", "line\nbreak", "`include `x`", "a\\", "</td><script>", "-", "0",
    "s_a_b_valid",
]  # fmt: skip


def hostile() -> Case:
    """Return a chain of layers with hostile names."""
    torch.manual_seed(1)
    model, x = nn.Sequential(), torch.randn(6, 2)
    for name in HOSTILE:
        model.add_module(name, nn.Linear(2, 2))
    traced, _ = trace_module(model.eval(), (x,))
    quantized, _ = quantize.run(traced, QuantizeConfig(NodeFormats("fixed4.2", "fixed6.3")), [x])
    mapped, _ = map_graph(quantized, MapConfig())
    stream = build(mapped).stream_in
    return Case(
        '../../evil"; endmodule', mapped, Code(corners(stream, 6, torch.Generator().manual_seed(0)).mantissa[:, 0])
    )


def test_hostile_names_become_legal_unique_identifiers(tmp_path: Path) -> None:
    case = hostile()
    design = emit(case.graph, tmp_path / "hostile", case.name)
    instances = [item["name"] for item in design.manifest["instances"]]
    signals = [edge.signal for edge in design.edges]
    for names in (instances, signals, list(design.manifest["memories"])):
        assert len(set(map(str.lower, names))) == len(names)
    assert all(IDENTIFIER.fullmatch(name) and len(name) <= LONGEST for name in [*instances, *signals, design.top])
    assert [edge.path for edge in design.edges[1:]] == HOSTILE  # the manifest keeps the model's own names
    files = contents(design.folder)
    assert all(re.fullmatch(r"[a-zA-Z0-9_./]+", name) for name in files)
    assert all(".." not in name for name in files)
    rtl = (design.folder / f"rtl/{design.top}.sv").read_text()
    assert len(re.findall(r"\bendmodule\b", rtl)) == 1
    assert rtl.isascii()
    assert "$" not in rtl


@pytest.mark.sim
def test_hostile_names_simulate(tmp_path: Path) -> None:
    prove([replace_name(hostile(), "hostile")], tmp_path, ())


def replace_name(case: Case, name: str) -> Case:
    return replace(case, name=name)


@pytest.mark.parametrize("name", ["linear", "mase_linear", "fifo", "mase_width_converter", "skid_buffer", "mase_rom"])
def test_a_top_never_takes_the_name_of_a_library_module(name: str, tmp_path: Path) -> None:
    design = emit(graph(), tmp_path / "d", name)
    library = {path.stem for path in hw_dir().rglob("*.sv")}
    assert not {design.top, f"{design.top}_axis"} & library
    assert (design.folder / f"rtl/{design.top}.sv").read_text().count(f"module {design.top} #(") == 1
    for path in design.sources:
        assert re.search(rf"^module {path.stem}\b", path.read_text(), re.MULTILINE), path.name


@pytest.mark.parametrize(
    ("text", "found"),
    [("Fc1", "u_fc1"), ("a.b", "u_a_b"), ("", "u_x"), ("ß", "u_x"), ("__a__", "u_a"), ("a" * 99, "u_" + "a" * 38)],
)
def test_identifier_by_hand(text: str, found: str) -> None:
    assert identifier(text, "u_") == found


def test_names_that_collide_get_numbers() -> None:
    names = Names("u_")
    given = [names[text] for text in ("a b", "a-b", "A_B", "a b", "x" * 50, "x" * 51, "a_b_2")]
    assert given[0] == given[3]
    assert len(set(given)) == 6
    assert all(len(name) <= LONGEST for name in given)


# -- size -------------------------------------------------------------------------------------------------------------


def single(size: int) -> Graph:
    torch.manual_seed(0)
    formats = {"0": NodeFormats("int4", output="fixed8.4")}
    network = Network(
        "single", [nn.Linear(size, size)], torch.randn(2, size), "fixed8.4", formats, {"0": Folding(8, 8)}
    )
    return map_graph(network.quantized(), MapConfig(folding=network.folding))[0]


def test_the_text_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    small, large = (emit(single(size), tmp_path / str(size), "single") for size in (64, 1024))

    def lines(design: Design) -> int:
        return sum(len(path.read_text().splitlines()) for path in design.sources)

    assert lines(small) == lines(large)
    assert len(small.manifest["instances"]) == len(large.manifest["instances"])
    assert {path.name for path in small.sources} == {path.name for path in large.sources}
    named = ("files.f", "axis.f", "SHA256SUMS", "host.py", "README.md", f"{small.top}.core", f"rtl/{small.top}_axis.sv")
    for name in (*named, f"bench/{small.top}__bench.sv", "scripts/lint.sh", "scripts/sim.sh", "scripts/synth.ys"):
        texts = [(design.folder / name).read_text() for design in (small, large)]
        assert len(texts[0].splitlines()) == len(texts[1].splitlines()), name


# -- memories and vectors ---------------------------------------------------------------------------------------------


def test_memories_are_those_of_the_blocks_and_of_the_manifest(tmp_path: Path) -> None:
    mapped = graph()
    design = emit(mapped, tmp_path / "d", "chain")
    images = [image for instance in build(mapped).instances for image in instance.block.memories().values()]
    assert len(images) == len(design.manifest["memories"]) > 0
    for file, entry in design.manifest["memories"].items():
        text = (design.folder / file).read_text()
        assert hashlib.sha256(text.encode()).hexdigest() == entry["sha256"]
        words = [int(line, 16) for line in text.split()]
        assert len(words) == entry["depth"]
        assert max(words) < 1 << entry["width"]
        assert any(words == list(image.words) and image.layout == entry["layout"] for image in images)


def test_weights_on_disk_are_the_codes_at_their_addresses(tmp_path: Path) -> None:
    mapped = graph(lanes=2)
    design, op = emit(mapped, tmp_path / "d", "chain"), build(mapped).ops["_0"]
    (file,) = [f for f in design.manifest["memories"] if f.endswith("_0_weight.mem")]
    words = [int(line, 16) for line in (design.folder / file).read_text().split()]
    found = np.zeros((4, 6), np.int64)  # outputs and inputs, padded to lanes
    for o, k, p, s in np.ndindex(2, 3, 2, 2):
        code = words[o * 3 + k] >> (p * 2 + s) * 4 & 15
        found[o * 2 + p, k * 2 + s] = code - 16 * (code >> 3)
    assert found[:, :5].tolist() == op.weight.tolist()  # type: ignore[attr-defined]  # a linear layer
    assert not found[:, 5:].any()


def beats(path: Path, size: int) -> np.ndarray:
    """Return the beats of a vector file, ``size`` bytes each."""
    return np.array([list(int(line, 16).to_bytes(size, "little")) for line in path.read_text().split()], np.uint8)


@pytest.mark.sim
def test_vectors_are_what_the_hardware_takes_and_gives(tmp_path: Path) -> None:
    design = emit(graph(), tmp_path / "d", "chain")
    feed, give = design.input.stream, design.output.stream
    raw = beats(design.folder / "vectors" / "input.hex", feed.bytes)
    code = design.input.shaped(feed.unpack(raw.reshape(-1, feed.beats, feed.bytes)))
    (result,) = simulate_many([Job(design, (code,))])
    found = give.pack(result.codes[design.output.name]).reshape(-1, give.bytes)
    assert np.array_equal(found, beats(design.folder / "vectors" / "output.hex", give.bytes))


# -- what stands in the folder ----------------------------------------------------------------------------------------


def test_the_folder_is_self_contained(tmp_path: Path) -> None:
    design = emit(graph(), tmp_path / "d", "chain")
    files = contents(design.folder)
    listed = files["files.f"].decode().split()
    assert [design.folder / name for name in listed] == design.sources
    assert all(name in files for name in [*listed, *design.manifest["files"]["axis"], *design.manifest["memories"]])
    assert not [path for path in design.folder.rglob("*") if path.is_symlink()]
    top = files[f"rtl/{design.top}.sv"].decode()
    used = [f"mem{file}" for file in re.findall(r'{MemDir, "(/[^"]+)"}', top)]
    assert sorted(used) == sorted(design.manifest["memories"])
    core = files[f"{design.top}.core"].decode()
    assert all(name in core for name in [*listed, *design.manifest["memories"]])


def test_a_loaded_design_is_the_emitted_one(tmp_path: Path) -> None:
    mapped = graph()
    design = emit(mapped, tmp_path / "d", "chain")
    netlist = build(mapped)
    assert [(edge.name, edge.stream) for edge in design.edges] == list(netlist.edges().items())
    x = torch.randn(3, 5)
    entry = mapped.node(netlist.entry)
    expected = design.input.format.encode(x, entry.params())
    assert torch.equal(design.encode(x)[0].mantissa, expected.mantissa)
    with pytest.raises(GraphError, match=r"input: found \(3, 4\); allowed is \(samples, 5\)"):
        design.encode(torch.randn(3, 4))


@pytest.mark.parametrize(
    ("text", "why"), [("", "corrupt"), ("{", "corrupt"), ("[]", "found a list"), ('{"schema": 99}', "schema 99"),
                      ('{"schema": 1}', "schema 1 does not say in which order elements travel"),
                      ('{"schema": 2}', "corrupt")]
)  # fmt: skip
def test_a_broken_manifest_is_one_clear_error(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "design.json").write_text(text)
    with pytest.raises(GraphError, match=rf"design.json: .*{why}"):
        Design.load(tmp_path)
    with pytest.raises(GraphError, match=r"design.json: no such file"):
        Design.load(tmp_path / "nothing")


@pytest.mark.sim
@pytest.mark.parametrize("kind", ["chain", "hostile", "reshape"])
def test_emitted_files_have_no_finding(kind: str, tmp_path: Path) -> None:
    design = emit(linted()[kind], tmp_path / kind, kind)
    axis = [design.folder / name for name in design.manifest["files"]["axis"]]
    bench = design.folder / "bench" / f"{design.top}__bench.sv"
    both = [*design.sources, *axis]
    for files, top in ((design.sources, design.top), (both, f"{design.top}_axis"), ([*both, bench], bench.stem)):
        assert [str(f) for f in lint(files, top) if f.severity != "absent"] == []


def linted() -> Mapping[str, Graph]:
    layers = [nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 3), nn.ReLU()]
    formats = {
        "0": NodeFormats("mxint4b2e3", output="int5"),
        "2": NodeFormats("ufixed4.2", output="ufixed3.1", rounding="trunc"),
    }
    folding = {"0": Folding(2, 3), "2": Folding(1, 2)}
    reshape = Network("reshape", layers, torch.randn(4, 2, 3), "mxint5b4e8", formats, folding).case().graph
    return {"chain": graph(), "hostile": hostile().graph, "reshape": reshape}


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(
        GraphError, match=r"holds files but no design.json; allowed is an empty folder or an earlier emission"
    ):
        emit(graph(), tmp_path, "chain")
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_in_the_folders_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MaseError, match=r"out: is a file; allowed is an empty folder"):
        emit(graph(), tmp_path / "out", "chain")
    assert contents(tmp_path) == {"out": b"a file"}


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_emission(tmp_path: Path) -> None:
    mapped = graph()
    before = contents(emit(mapped, tmp_path / "out", "chain").folder)
    with full_disk(2000), pytest.raises(MaseError, match=r"out: cannot write: File too large"):
        emit(graph((5, 3)), tmp_path / "out", "chain")
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MaseError, match=r"out: cannot write: "):
        emit(graph(), tmp_path / "file" / "out", "chain")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(MaseError, match=r"out: cannot write: Permission denied"):
            emit(graph(), tmp_path / "out", "chain")
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o755)


def test_a_rename_that_fails_brings_the_earlier_emission_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(emit(graph(), tmp_path / "out", "chain").folder)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "out" and self.name != "old":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(MaseError, match="out: cannot write: Input/output error"):
        emit(graph((5, 3)), tmp_path / "out", "chain")
    monkeypatch.undo()
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).softmax(-1)


def test_an_operator_without_hardware_names_node_line_and_what_there_is(tmp_path: Path) -> None:
    x = torch.randn(4, 4)
    traced, _ = trace_module(Softmax().eval(), (x,))
    quantized, _ = quantize.run(traced, QuantizeConfig(NodeFormats("int4", "fixed8.4")), [x])
    line = Softmax.forward.__code__.co_firstlineno + 1
    where = rf"node 'softmax' \(softmax, test_verilog.py:{line}\): has no hardware"
    with pytest.raises(UnsupportedOp, match=rf"{where}; supported: activation, add, "):
        emit(quantized, tmp_path / "out", "softmax")
    assert list(tmp_path.iterdir()) == []


def test_the_memories_of_every_kind_of_block_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = MemoryImage(8, [1, 254], "a table")
    monkeypatch.setattr(RequantizeBlock, "memories", lambda self: {"TableFile": image})
    network = Network("relu", [nn.ReLU()], torch.randn(4, 3), "fixed6.4", {"0": NodeFormats(output="fixed6.4")})
    design = emit(network.case().graph, tmp_path / "relu", "relu")
    (memory,) = (tmp_path / "relu" / "mem").iterdir()
    assert memory.read_text() == "01\nfe\n"
    assert f'.TableFile({{MemDir, "/{memory.name}"}})' in (design.folder / "rtl" / f"{design.top}.sv").read_text()
