"""Synthesize an emitted design with Yosys, in a child process, and count what it takes.

How cells count, so that figures compare with a vendor's report:

- LUT: every ``LUT1``..``LUT6`` and ``INV`` is one; carry chains and wide multiplexers (``CARRY4``, ``MUXF7``) count 0;
  a shift register (``SRL16E``, ``SRLC32E``) is one; a memory in LUTs counts the LUTs that it fills (``RAM32M16`` 8).
- FF: every flip-flop. DSP: every DSP block, however little of it is used. BRAM: blocks of 18 Kbit (``RAMB36E2`` 2).
- Instances of the top module keep their boundaries, so that each can be compared with its prediction; everything
  inside them is flattened. No pads and clock buffers are inserted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from emit import children, tools
from emit.design import Design
from mase.cost.resources import Resources
from mase.doors import file, json_text
from mase.errors import GraphError, ToolError, UnknownName
from mase.files import write_atomic

SCHEMA = 1
TIMEOUT_SECONDS = 1800.0
MEMORY_BYTES = 6 << 30  # address space of the child and of the ABC that it starts
ASIC = "asic:"  # a target that names a liberty file
LIBERTY_HINT = "apt-get install qflow-tech-osu018 brings /usr/share/qflow/tech/osu018/osu018_stdcells.lib"
CHILD = """
import resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[2:]:
    libyosys.run_pass(command, design)
"""
SCRIPTS = {
    "xcup": "synth_xilinx -family xcup -flatten -noiopad -noclkbuf -top {top}",
    "xc7": "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}",
    "ecp5": "synth_ecp5 -top {top}",
}
LUTS = {
    **{f"LUT{n}": 1 for n in range(1, 7)},
    "INV": 1,
    "SRL16E": 1,
    "SRLC16E": 1,
    "SRLC32E": 1,
    "RAM32X1S": 1,
    "RAM64X1S": 1,
    "RAM128X1S": 2,
    "RAM256X1S": 4,
    "RAM512X1S": 8,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "RAM64X8SW": 8,
    "CCU2C": 2,  # ECP5: a slice's two LUTs with their carry
    "TRELLIS_DPR16X4": 6,  # ECP5: two slices of storage and the write logic of a third
}
FLIP_FLOPS = re.compile(r"FD[RSCP]E(_1)?|LD[CP]E|TRELLIS_FF")
DSPS = {"DSP48E1": 1, "DSP48E2": 1, "MULT18X18D": 1}
BRAMS = {"RAMB18E1": 1, "RAMB18E2": 1, "RAMB36E1": 2, "RAMB36E2": 2, "DP16KD": 1}


@dataclass(frozen=True)
class SynthResult:
    """What synthesis found.

    Args:
        target: device, or ``asic:`` and the liberty file. resources: of the whole design, counted as said above.
        instances: the same of each instance, by its name in the netlist. cells: how many of each type.
        seconds: wall time. tool: name and version. log: all that the tool said.
        area: of all cells in the liberty file's unit; None for an FPGA.
    """

    target: str
    resources: Resources
    instances: Mapping[str, Resources]
    cells: Mapping[str, int]
    seconds: float
    tool: str
    log: str = field(default="", repr=False)
    area: float | None = None

    def save(self, folder: str | Path) -> None:
        """Write ``synth.json`` and ``synth.log``.

        Raises:
            MaseError: the folder cannot be written.
        """
        data = {"schema": SCHEMA, **asdict(self)}
        write_atomic(Path(folder) / "synth.log", data.pop("log"))
        write_atomic(Path(folder) / "synth.json", json.dumps(data, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> SynthResult:
        """Read what :meth:`save` wrote.

        Raises:
            GraphError: it is missing, corrupt, or of another schema.
        """
        path = Path(folder) / "synth.json"
        hint = "; `mase synth` writes it"
        data = json_text.read(path, GraphError, hint)
        json_text.check_schema(data, (SCHEMA,), str(path))
        found = json_text.checked(cls, {k: v for k, v in data.items() if k != "schema"}, f"{path}: corrupt")
        return replace(found, log=file.text(path.with_suffix(".log"), json_text.LARGEST, GraphError, hint))


def synthesize(
    design: Design, target: str = "xcup", timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES
) -> SynthResult:
    """Synthesize a design.

    Args:
        target: ``xcup``, ``xc7``, ``ecp5``, or ``asic:`` and the path of a liberty file.
        timeout_seconds: after which the tool is stopped. memory_bytes: that each of its processes may take.

    Raises:
        ToolError: Yosys is missing, fails, takes too long or too much memory; or there is no such liberty file.
        UnknownName: no such target.
    """
    version = tools.require("pyosys").version
    script = commands(design, target)
    start = time.perf_counter()
    stat, log = run_yosys(script, design.folder, timeout_seconds, memory_bytes)
    seconds = time.perf_counter() - start
    cells = flat_cells(stat, design.top)
    instances = {
        item["node"] + (f".{item['role']}" if item["role"] else ""): count(flat_cells(stat, _module(design.top, item)))
        for item in design.manifest["instances"]
    }
    area = float(stat["design"]["area"]) if target.startswith(ASIC) else None
    kinds = dict(sorted(cells.items()))
    return SynthResult(target, count(cells), instances, kinds, seconds, f"Yosys {version}", log, area)


def synthesize_module(
    module: str,
    params: Mapping[str, int],
    memories: Mapping[str, str],
    files: Sequence[Path],
    target: str = "xcup",
    timeout_seconds: float = TIMEOUT_SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> Resources:
    """Synthesize one module alone.

    Args:
        params: of the module. memories: text of each memory image, by the parameter that names its file.
        files: of the module and of all below it. target: ``xcup``, ``xc7`` or ``ecp5``.
        timeout_seconds, memory_bytes: as in :func:`synthesize`.

    Raises:
        ToolError: as in :func:`synthesize`. UnknownName: no such target.
    """
    tools.require("pyosys")
    if target not in SCRIPTS:
        raise UnknownName("target", target, SCRIPTS)
    with tempfile.TemporaryDirectory(prefix="mase-synth-") as folder:
        given = [f"-G{name}={value}" for name, value in params.items()]
        for name, text in memories.items():
            (Path(folder) / f"{name}.mem").write_text(text)
            given.append(f'-G{name}="{name}.mem"')
        sources = " ".join(str(path) for path in files)
        read = f"read_slang --best-effort-hierarchy --top {module} {' '.join(given)} {sources}"
        stat, _ = run_yosys([read, SCRIPTS[target].format(top=module)], Path(folder), timeout_seconds, memory_bytes)
    return count(flat_cells(stat, module))


def commands(design: Design, target: str) -> list[str]:
    """Return the Yosys commands; they run in the design's folder, where the memory images are found."""
    files = " ".join(design.manifest["files"]["rtl"])
    kept = " ".join(_module(design.top, item) for item in design.manifest["instances"])
    read = [
        f"read_slang --best-effort-hierarchy --top {design.top} {files}",
        f"setattr -mod -set keep_hierarchy 1 {kept}",
    ]
    if target in SCRIPTS:
        return [*read, SCRIPTS[target].format(top=design.top)]
    if not target.startswith(ASIC):
        raise UnknownName("target", target, [*SCRIPTS, f"{ASIC}FILE.lib"])
    liberty = Path(target.removeprefix(ASIC)).absolute()
    if not liberty.is_file():
        raise ToolError(f"target {target}: no such liberty file; {LIBERTY_HINT}")
    mapped = [f'{command} -liberty "{liberty}"' for command in ("dfflibmap", "abc", "stat")]
    return [*read, f"synth -flatten -top {design.top}", *mapped[:2], "opt_clean"]


def run_yosys(
    script: list[str], folder: Path, timeout_seconds: float = TIMEOUT_SECONDS, memory_bytes: int = MEMORY_BYTES
) -> tuple[dict[str, Any], str]:
    """Run commands in a child process, then ``stat``: an error inside Yosys ends its process.

    Returns:
        the statistics as Yosys writes them, and the log.

    Raises:
        ToolError: with the first line that Yosys calls an error.
    """
    liberty = next((re.sub(r"^\w+", "", command) for command in script if command.startswith("dfflibmap ")), "")
    with tempfile.TemporaryDirectory(prefix="mase-synth-") as scratch:
        found = Path(scratch) / "stat.json"
        last = f'tee -q -o "{found}" stat -json{liberty}'
        status, log = _child([str(memory_bytes), *script, last], folder, timeout_seconds)
        if status == 0 and found.is_file():
            stat: dict[str, Any] = json.loads(found.read_text())
            return stat, log
    if error := re.search(r"^(?:ERROR|.*error): (.*)$", log, re.MULTILINE):
        raise ToolError(f"yosys: {error[1].strip()[:300]}")
    if "bad_alloc" in log or "MemoryError" in log or status < 0:
        raise ToolError(f"yosys: stopped without a message (status {status}); its memory is {memory_bytes >> 20} MiB")
    last_line = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "it said nothing")
    raise ToolError(f"yosys: exit code {status}: {last_line[:300]}")


def flat_cells(stat: Mapping[str, Any], module: str) -> Counter[str]:
    """Return how many cells of each type lie in a module and below it; a module that was optimised away has none."""
    modules = stat["modules"]
    out: Counter[str] = Counter()
    for kind, many in modules.get("\\" + module, {}).get("num_cells_by_type", {}).items():
        if "\\" + kind in modules:
            for inner, each in flat_cells(stat, kind).items():
                out[inner] += many * each
        elif kind != "$scopeinfo":
            out[kind] += many
    return out


def count(cells: Mapping[str, int]) -> Resources:
    """Return cells as resources, by the rules above."""
    lut = sum(LUTS.get(kind, 0) * many for kind, many in cells.items())
    ff = sum(many for kind, many in cells.items() if FLIP_FLOPS.fullmatch(kind))
    dsp = sum(DSPS.get(kind, 0) * many for kind, many in cells.items())
    return Resources(lut, ff, dsp, sum(BRAMS.get(kind, 0) * many for kind, many in cells.items()))


def _module(top: str, item: Mapping[str, Any]) -> str:
    """Return the name that the front end gives the module of an instance."""
    return f"{item.get('definition', item['module'])}${top}.{item['name']}"


def _child(arguments: list[str], folder: Path, timeout_seconds: float) -> tuple[int, str]:
    """Return exit status and output; a child that takes too long dies with everything that it started."""
    try:
        done = children.run(
            [sys.executable, "-c", CHILD, *arguments], folder, tools.child_env(), timeout_seconds, joined=True
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"yosys: no result after {timeout_seconds:g} s") from error
    return done.returncode, done.stdout
