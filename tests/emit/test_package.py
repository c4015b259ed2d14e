"""What a hardware engineer does with an emitted folder: two of them in a build, from any folder, in any tool."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from emit import tools
from emit.design import Design
from emit.lint import lint
from emit.verilog import emit
from mase.formats import Code
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case

NO_ICARUS = pytest.mark.skipif(tools.which("iverilog") is None, reason="no iverilog: apt-get install iverilog")
NO_YOSYS = pytest.mark.skipif(tools.which("yosys") is None, reason="no yosys with Tcl: apt-get install yosys")
TIMEOUT_SECONDS = 600


def cases() -> tuple[Case, Case]:
    """Return two designs; the name of the second is what a careless prefix would call a module of the first."""
    blocks = {path: NodeFormats("int4", output="mxint5b4e3") for path in ("0", "2")}
    folding = {"0": Folding(2, 2), "2": Folding(2, 2)}
    layers = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
    first = Network("alpha", layers, torch.randn(4, 5), "fixed6.4", blocks, folding)
    plain = {"0": NodeFormats("fixed4.3", output="fixed5.3", accumulation="auto")}
    second = Network("alpha_rom", [nn.Linear(7, 3)], torch.randn(4, 2, 7), "mxint4b2e3", plain, {"0": Folding(4, 1)})
    return first.case(), second.case()


@dataclass(frozen=True)
class Pair:
    """Two designs below one folder."""

    root: Path
    designs: tuple[Design, Design]

    def all(self, kind: str) -> list[str]:
        """Return the places of the sources of both designs, relative to the folder."""
        return [f"{design.folder.name}/{name}" for design in self.designs for name in design.manifest["files"][kind]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("pair")
    a, b = (emit(case.graph, root / case.name, case.name, clock_mhz=250.0) for case in cases())
    return Pair(root, (a, b))


def bench(design: Design) -> Path:
    return design.folder / "bench" / f"{design.top}__bench.sv"


def called(
    command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = tools.child_env() if env is None else env
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)


# -- two designs in a build -------------------------------------------------------------------------------------------


def test_designs_share_no_name(pair: Pair) -> None:
    modules, files = [], []
    for design in pair.designs:
        rtl = [*sorted((design.folder / "rtl").iterdir()), bench(design)]
        modules.append({name for path in rtl for name in re.findall(r"^module (\w+)", path.read_text(), re.MULTILINE)})
        files.append({path.name for path in rtl} | {path.name for path in (design.folder / "mem").iterdir()})
        assert all(design.top in name for name in modules[-1])
    assert not modules[0] & modules[1]
    assert not files[0] & files[1]


def test_no_source_asks_for_a_file_that_is_not_there(pair: Pair) -> None:
    for design in pair.designs:
        for path in (design.folder / "rtl").iterdir():
            assert "`include" not in path.read_text()


PAIR = """module pair;
  logic [1:0] done;
  {a}__bench #(.MemDir("alpha/mem"), .VectorDir("alpha/vectors"), .Finish(1'b0)) u_a (.done_o(done[0]));
  {b}__bench #(
    .MemDir("alpha_rom/mem"), .VectorDir("alpha_rom/vectors"), .Axis(1'b1), .Finish(1'b0)
  ) u_b (.done_o(done[1]));
  initial begin
    wait (&done);
    $finish;
  end
endmodule
"""


def pair_top(pair: Pair, folder: Path) -> Path:
    path = folder / "pair.sv"
    path.write_text(PAIR.format(a=pair.designs[0].top, b=pair.designs[1].top))
    return path


@pytest.mark.sim
def test_both_file_lists_elaborate_in_one_verilator_run_without_a_warning(pair: Pair, tmp_path: Path) -> None:
    found = tools.verilator()
    lists = [word for design in pair.designs for word in ("-F", str(design.folder / "axis.f"))]
    sources = [*map(bench, pair.designs), pair_top(pair, tmp_path)]
    flags = ["--lint-only", "-Wall", "--timing", "--quiet", "--top-module", "pair"]
    done = called([*found.command, *flags, *lists, *sources], tmp_path, found.env)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.sim
def test_both_designs_have_no_finding_side_by_side(pair: Pair, tmp_path: Path) -> None:
    sources = [pair.root / name for name in (*pair.all("rtl"), *pair.all("axis"))]
    top = pair_top(pair, tmp_path)
    found = lint([*sources, *map(bench, pair.designs), top], "pair")
    assert [str(f) for f in found if f.severity != "absent" and Path(f.file) != top] == []


# -- the bench, with and without mistakes -----------------------------------------------------------------------------


def broken_vector(root: Path) -> None:
    path = root / "alpha_rom" / "vectors" / "output.hex"
    lines = path.read_text().split()
    lines[5] = f"{int(lines[5], 16) ^ 1:0{len(lines[5])}x}"
    path.write_text("\n".join(lines) + "\n")


def short_vectors(root: Path) -> None:
    path = root / "alpha" / "vectors" / "input.hex"
    path.write_text("\n".join(path.read_text().split()[:-1]) + "\n")


def missing_memory(root: Path) -> None:
    next((root / "alpha" / "mem").glob("*_weight.mem")).unlink()


def short_memory(root: Path) -> None:
    path = next((root / "alpha_rom" / "mem").glob("*_weight.mem"))
    path.write_text("\n".join(path.read_text().split()[:-1]) + "\n")


MISTAKES = {
    broken_vector: r"FAIL: output beat 5 of sample 0, cycle \d+: data",
    short_vectors: r"FAIL: alpha/vectors/input.hex: has 11 of 12 beats",
    missing_memory: r"alpha/mem/mase_alpha__0_weight.mem: not read, or fewer than 6 words",
    short_memory: r"alpha_rom/mem/mase_alpha_rom__0_weight.mem: not read, or fewer than 6 words",
}


def check_runs(pair: Pair, command: Sequence[str | Path], folder: Path) -> None:
    """Assert that a compiled pair of benches passes beside its files, and fails without them and at each mistake."""
    done = called(command, pair.root)
    assert done.returncode == 0, done.stdout + done.stderr
    for design in pair.designs:
        assert f"PASS: {design.top}: " in done.stdout
    for change, text in MISTAKES.items():
        root = shutil.copytree(pair.root, folder / change.__name__)
        change(root)
        done = called(command, root)
        assert done.returncode != 0, change.__name__
        assert re.search(text, done.stdout + done.stderr), f"{change.__name__}: {done.stdout}{done.stderr}"
    done = called(command, folder)
    assert done.returncode != 0
    assert ".mem: not read" in done.stdout + done.stderr


@pytest.mark.sim
def test_two_benches_in_one_verilator_program(pair: Pair, tmp_path: Path) -> None:
    found = tools.verilator()
    lists = [word for design in pair.designs for word in ("-F", str(design.folder / "axis.f"))]
    sources = [*map(bench, pair.designs), pair_top(pair, tmp_path)]
    quick = ["-CFLAGS", "-O0", "--MAKEFLAGS", "OPT_FAST=-O0 OPT_SLOW=-O0 OPT_GLOBAL=-O0"]
    flags = ["--binary", "--timing", "--quiet", "--Mdir", "obj", "--top-module", "pair", *quick]
    done = called([*found.command, *flags, *lists, *sources], tmp_path, found.env)
    assert done.returncode == 0, done.stdout + done.stderr
    check_runs(pair, [tmp_path / "obj" / "Vpair"], tmp_path)


@pytest.mark.sim
@NO_ICARUS
def test_two_benches_in_one_icarus_program(pair: Pair, tmp_path: Path) -> None:
    sources = [pair.root / name for name in (*pair.all("rtl"), *pair.all("axis"))]
    top, program = pair_top(pair, tmp_path), tmp_path / "pair.vvp"
    command = ["iverilog", "-g2012", "-Wall", "-s", "pair", "-o", program, *sources, *map(bench, pair.designs), top]
    done = called(command, tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    check_runs(pair, ["vvp", "-n", program], tmp_path)


@pytest.mark.sim
@NO_ICARUS
@pytest.mark.parametrize("arguments", [[], ["iverilog", "axis"]], ids=["core", "axis"])
def test_the_script_runs_the_bench_from_anywhere(pair: Pair, arguments: list[str], tmp_path: Path) -> None:
    script = pair.designs[0].folder / "scripts" / "sim.sh"
    done = called(["sh", script, *arguments], tmp_path, {**tools.child_env(), "BUILD": str(tmp_path / "build")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"PASS: {pair.designs[0].top}: 24 beats in" in done.stdout


def test_the_script_names_what_it_takes(pair: Pair, tmp_path: Path) -> None:
    script = pair.designs[0].folder / "scripts" / "sim.sh"
    done = called(["sh", script, "questa"], tmp_path, {**tools.child_env(), "BUILD": str(tmp_path / "build")})
    assert (done.returncode, done.stderr) == (2, "found questa; allowed: iverilog, verilator\n")


@pytest.mark.sim
@NO_ICARUS
def test_mem_dir_names_another_folder(pair: Pair, tmp_path: Path) -> None:
    first = pair.designs[0]
    given = {"MemDir": first.folder / "mem", "VectorDir": first.folder / "vectors"}
    values = [f'-P{first.top}__bench.{name}="{place}"' for name, place in given.items()]
    sources = [first.folder / name for kind in ("rtl", "axis") for name in first.manifest["files"][kind]]
    program = tmp_path / "bench.vvp"
    command = ["iverilog", "-g2012", *values, "-s", f"{first.top}__bench", "-o", program, *sources, bench(first)]
    assert called(command, tmp_path).returncode == 0
    done = called(["vvp", "-n", program], tmp_path)
    assert (done.returncode, "PASS: " in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.sim
def test_the_lint_script_covers_the_wrapper(pair: Pair, tmp_path: Path) -> None:
    folder = shutil.copytree(pair.designs[0].folder, tmp_path / "copy")
    found = tools.verilator()
    done = called(["sh", folder / "scripts" / "lint.sh"], tmp_path, found.env)
    assert done.returncode == 0, done.stderr
    wrapper = folder / "rtl" / f"{pair.designs[0].top}_axis.sv"
    wrapper.write_text(wrapper.read_text().replace("\nendmodule", "\n  logic nobody_drives;\nendmodule"))
    done = called(["sh", folder / "scripts" / "lint.sh"], tmp_path, found.env)
    assert done.returncode != 0
    assert "nobody_drives" in done.stderr


# -- synthesis --------------------------------------------------------------------------------------------------------

# pyosys ends the process at an error, so it never runs in ours.
YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""


@pytest.mark.sim
def test_the_synthesis_script_reads_with_any_yosys_without_a_warning(pair: Pair) -> None:
    for design in pair.designs:
        text = (design.folder / "scripts" / "synth.ys").read_text()
        reading, synthesis, stat = (line for line in text.splitlines() if not line.startswith("#"))
        assert reading.startswith("read_verilog -sv ")
        assert synthesis == f"synth_xilinx -family xcup -flatten -top {design.top}"
        assert stat == "stat"
        passes = [reading, f"hierarchy -check -top {design.top}", "proc", "check -assert"]
        done = called([sys.executable, "-c", YOSYS, *passes], design.folder)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-2000:]
        assert [line for line in output.splitlines() if line.lower().startswith(("warning", "error"))] == []


@pytest.mark.slow
def test_the_synthesis_script_runs_to_its_end(pair: Pair) -> None:
    design = pair.designs[1]
    lines = (design.folder / "scripts" / "synth.ys").read_text().splitlines()
    done = called([sys.executable, "-c", YOSYS, *(line for line in lines if not line.startswith("#"))], design.folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"\d+\s+FDRE", done.stdout)
    assert "RAMB" in done.stdout or "LUT" in done.stdout


# -- FuseSoC ----------------------------------------------------------------------------------------------------------


class FuseSoC:
    """FuseSoC with a home of its own, in a folder where it knows the cores of some others."""

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self.folder = folder
        home = {name: str(folder / name) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
        self.env = {**tools.verilator().env, **home}
        self.roots = [word for root in roots for word in ("--cores-root", str(root))]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return called(["fusesoc", *self.roots, "run", *arguments], self.folder, self.env)


@pytest.fixture
def fusesoc(pair: Pair, tmp_path: Path) -> FuseSoC:
    return FuseSoC(tmp_path, [pair.root])


@pytest.mark.sim
@NO_ICARUS
@pytest.mark.parametrize("arguments", [[], ["--target=sim"]], ids=["default", "sim"])
def test_fusesoc_runs_the_bench(fusesoc: FuseSoC, pair: Pair, arguments: list[str]) -> None:
    for design, options in zip(pair.designs, ([], ["--Axis=1"]), strict=True):
        done = fusesoc.run(*arguments, f"mase:generated:{design.top}", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"PASS: {design.top}: " in done.stdout + done.stderr


@pytest.mark.sim
def test_fusesoc_lints(fusesoc: FuseSoC, pair: Pair) -> None:
    done = fusesoc.run("--target=lint", f"mase:generated:{pair.designs[0].top}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_fusesoc_sets_up_verilator_and_yosys(fusesoc: FuseSoC, pair: Pair) -> None:
    core = f"mase:generated:{pair.designs[0].top}"
    for arguments in (["--setup", "--target=sim", core, "--tool=verilator"], ["--setup", "--target=synth", core]):
        done = fusesoc.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    (options,) = fusesoc.folder.rglob("*.vc")
    assert {"--binary", "--timing"} <= set(options.read_text().split())
    script = next(fusesoc.folder.rglob("edalize_yosys_template.tcl")).read_text()
    procedures = next(fusesoc.folder.rglob("edalize_yosys_procs.tcl")).read_text()
    assert "read_verilog -sv" in script + procedures
    assert "read_slang" not in script + procedures
    assert "synth_xilinx" in script + procedures


@pytest.mark.slow
@NO_YOSYS
def test_fusesoc_synthesizes(fusesoc: FuseSoC, pair: Pair) -> None:
    done = fusesoc.run("--target=synth", f"mase:generated:{pair.designs[1].top}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(fusesoc.folder.rglob("*.json"))


PARENT = """CAPI=2:
name: a:user:parent:1
filesets:
  rtl:
    files: [parent.sv]
    file_type: systemVerilogSource
    depend: ["mase:generated:{a}", "mase:generated:{b}"]
targets:
  default: &default
    filesets: [rtl]
    toplevel: parent
    flow: lint
    flow_options: {{tool: verilator}}
  vivado:
    <<: *default
    flow: vivado
    flow_options: {{part: xcku5p-ffvb676-2-e}}
"""


def parent(pair: Pair, folder: Path) -> Path:
    """Write a core that depends on both designs and has an instance of each."""
    core = ("clk_i", "rst_ni", "flush_i", "in_valid_i", "in_data_i", "in_last_i", "out_ready_i")
    axis = ("aclk", "aresetn", "flush_i", "s_axis_tvalid", "s_axis_tdata", "s_axis_tlast", "m_axis_tready")
    ports = (core, axis)
    names = (pair.designs[0].top, f"{pair.designs[1].top}_axis")
    body = "".join(
        f"  {name} u_{i} ({', '.join(f'.{port}(1)' for port in ports[i])});\n" for i, name in enumerate(names)
    )
    folder.mkdir()
    # The parent is a stand-in that ties every input to a constant of another width and leaves its outputs open.
    off = "/* verilator lint_off WIDTH */ /* verilator lint_off PINMISSING */"
    (folder / "parent.sv").write_text(f"{off}\nmodule parent;\n{body}endmodule\n")
    (folder / "parent.core").write_text(PARENT.format(a=pair.designs[0].top, b=pair.designs[1].top))
    return folder


@pytest.mark.sim
def test_two_cores_in_one_fusesoc_project(pair: Pair, tmp_path: Path) -> None:
    found = FuseSoC(tmp_path, [pair.root, parent(pair, tmp_path / "parent")])
    done = found.run("a:user:parent")
    assert done.returncode == 0, done.stdout + done.stderr
    text = next(tmp_path.rglob("*.vc")).read_text()
    for design in pair.designs:
        assert f"{design.top}.sv" in text
        assert f"{design.top}__bench.sv" not in text
        assert all(path.is_file() for path in (tmp_path / "build").rglob("*.mem"))
    copied = {path.name for path in (tmp_path / "build").rglob("mem/*.mem")}
    assert copied == {Path(name).name for design in pair.designs for name in design.manifest["memories"]}


def test_memories_reach_a_vendor_project(pair: Pair, tmp_path: Path) -> None:
    found = FuseSoC(tmp_path, [pair.root, parent(pair, tmp_path / "parent")])
    done = found.run("--setup", "--target=vivado", "a:user:parent")
    assert done.returncode == 0, done.stdout + done.stderr
    project = "".join(path.read_text() for path in tmp_path.rglob("*.tcl"))
    read = sorted(re.findall(r"read_mem {([^}]+)}", project))
    assert read == sorted(name for design in pair.designs for name in design.manifest["memories"])


# -- README, digest, buffers ------------------------------------------------------------------------------------------


def test_the_digest_is_that_of_sources_and_memories(pair: Pair) -> None:
    for design in pair.designs:
        sums = (design.folder / "SHA256SUMS").read_text()
        listed = dict(reversed(line.split("  ")) for line in sums.splitlines())
        places = [path for kind in ("rtl", "mem") for path in (design.folder / kind).iterdir()]
        assert listed == {
            str(path.relative_to(design.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in places
        }
        assert design.manifest["digest"] == hashlib.sha256(sums.encode()).hexdigest()
        assert design.manifest["digest"] in (design.folder / "README.md").read_text()


def test_the_readme_says_what_a_code_is_worth(pair: Pair) -> None:
    first, second = (" ".join((design.folder / "README.md").read_text().split()) for design in pair.designs)
    fixed = "an element is 6 bits, two's complement, from -32 to 31. value = code x 2^-4 = code x 0.0625"
    assert f"- Input, `fixed6.4`: {fixed} (4 fraction bits): -2.0 to 1.9375." in first
    edge = pair.designs[1].input
    grid = edge.stream.grid
    code = Code(torch.full((1, 2, 7), 7), torch.full((1, 2, 4), grid.base + grid.span))
    assert f"the greatest magnitude {float(edge.decode(code).max())!r}." in second
    assert "value = mantissa x 2^(e - 2), e = field" in second


def test_the_readme_says_version_clock_and_buffers(pair: Pair) -> None:
    import mase

    design = pair.designs[0]
    text = " ".join((design.folder / "README.md").read_text().split())
    assert f"Written by mase {mase.__version__}." in text
    interval = int(design.manifest["cycles"]["interval"])
    assert f"A clock of 250 MHz was assumed: {250e6 / interval:.6g} samples a second" in text
    beats = design.manifest["buffers"]["input_beats"]["in"]
    assert f"the core takes {beats} input beats ({beats / 3:.4g} samples), then lowers `in_ready_o`" in text


def test_without_a_clock_the_readme_says_so(tmp_path: Path) -> None:
    design = emit(cases()[1].graph, tmp_path / "d", "d")
    assert "No clock was assumed" in (design.folder / "README.md").read_text()
    assert design.manifest["clock_mhz"] is None
