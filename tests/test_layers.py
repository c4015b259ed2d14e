"""Who may import whom, and that every module can be the first one imported."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mase.ops.base import OPS

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"mase": {"mase"}, "passes": {"passes", "mase"}, "emit": {"emit", "mase"}}
SEE_ALL = {"mase.flow", "mase.cli", "mase.__main__"}
ROOMS = {"mase", "passes", "emit", "tests", "bench"}
INNER = {  # rooms inside mase that know little: what they may import of it besides themselves
    "mase.formats": {"mase.errors", "mase.registry", "mase.files", "mase.doors"},
    "mase.dataflow": {"mase.errors", "mase.formats", "mase.paths"},
    "mase.blocks": {"mase.errors", "mase.formats", "mase.dataflow"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))}


def imports(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, those inside functions too; a relative one as it is written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names)


def offences(module: str, source: str) -> list[str]:
    """Return the imports that ``module`` may not have."""
    if module in SEE_ALL:
        return [name for name in imports(source) if name.partition(".")[0] in {"tests", "bench", ""}]
    room = module.partition(".")[0]
    bad = {name for name in imports(source) if name.partition(".")[0] in (ROOMS | {""}) - MAY_IMPORT[room]}
    if module != "mase":  # mase/__init__.py resolves the public API from mase.flow
        bad |= {name for name in imports(source) if ".".join(name.split(".")[:2]) in SEE_ALL}
    inner = ".".join(module.split(".")[:2])
    if inner in INNER:
        allowed = INNER[inner] | {inner}
        bad |= {n for n in imports(source) if n.startswith("mase.") and ".".join(n.split(".")[:2]) not in allowed}
    return sorted(bad)


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("mase.graph", "import torch\nfrom mase.errors import GraphError", []),
        ("mase.graph", "from passes.quantize import quantize", ["passes.quantize.quantize"]),
        ("mase.graph", "def f():\n    import emit.sim", ["emit.sim"]),
        ("mase.graph", "from mase import flow", ["mase.flow"]),
        ("mase.graph", "from . import errors", [".errors"]),
        ("mase", "from mase.flow import run", []),
        ("mase.dataflow.stream", "from mase.formats import Code\nfrom mase.dataflow import grid", []),
        ("mase.dataflow.stream", "from mase.graph import Graph", ["mase.graph.Graph"]),
        ("mase.dataflow.stream", "from mase import ops", ["mase.ops"]),
        ("mase.blocks.output", "from mase.dataflow.stream import StreamType", []),
        ("mase.blocks.output", "from mase.ops.base import Op", ["mase.ops.base.Op"]),
        ("mase.formats.fixed", "from mase.dataflow.stream import StreamType", ["mase.dataflow.stream.StreamType"]),
        ("passes.quantize", "from mase.graph import Graph", []),
        ("passes.quantize", "from emit.sim import simulate", ["emit.sim.simulate"]),
        ("emit.sim", "import passes", ["passes"]),
        ("emit.sim", "from tests.conftest import x", ["tests.conftest.x"]),
        ("mase.flow", "import passes.quantize, emit.sim", []),
        ("mase.flow", "import bench.common", ["bench.common"]),
    ],
)
def test_the_rule_is_enforced(module: str, source: str, found: list[str]) -> None:
    assert offences(module, source) == found


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_what_its_room_may(module: str) -> None:
    assert offences(module, MODULES[module].read_text(encoding="utf-8")) == []


# One process imports the heavy libraries, then forks for each module: each is the first of ours to be imported.
HEAVY = ("torch", "numpy", "scipy.optimize", "optuna", "pydantic", "networkx", "typer", "sklearn.datasets")
FIRST_AND_ALONE = """
import importlib, json, os, sys, traceback
heavy, modules = map(json.loads, sys.argv[1:])
for library in heavy:
    importlib.import_module(library)
errors = {}
for module in modules:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(module)
            status = 0
        except BaseException:
            os.write(write, traceback.format_exc()[-4000:].encode())
            status = 1
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        errors[module] = text
print(json.dumps(errors))
"""


def import_each_alone(modules: Sequence[str], folder: Path, heavy: Sequence[str] = ()) -> dict[str, str]:
    """Return the traceback of every module that cannot be imported first, seen from ``folder``."""
    command = [sys.executable, "-c", FIRST_AND_ALONE, json.dumps(heavy), json.dumps(modules)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    errors: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return errors


def test_every_module_imports_first_and_alone() -> None:
    errors = import_each_alone(list(MODULES), ROOT, HEAVY)
    assert not errors, "\n".join(f"{module}:\n{text}" for module, text in errors.items())


def test_a_module_that_needs_another_first_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("import two\nvalue = 1\n")
    (tmp_path / "two.py").write_text("from one import value\n")
    errors = import_each_alone(["one", "two"], tmp_path)
    assert set(errors) == {"one"}
    assert "ImportError" in errors["one"]


@pytest.mark.parametrize("module", MODULES)
def test_no_method_is_left_out(module: str) -> None:
    # what a class lacks is abstract, so that nobody can call it; onnx's evaluator wants this error of an operator, and
    # pytest makes objects of classes of laws
    tree = ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    raised = [ast.unparse(node.exc) for node in tree if isinstance(node, ast.Raise) and node.exc]
    assert module in ("mase.frontend.onnx_judge", "mase.testing") or not [
        t for t in raised if t.startswith("NotImplementedError")
    ]


# -- kinds are asked, not called by name -------------------------------------------------------------------------------

NAMES_KINDS = ("mase.ops", "mase.frontend", "mase.rewrites")  # kinds, doors that make them, and rewrites of one each


def named_kinds(source: str) -> list[str]:
    """Return the kinds of operators that a module compares ``.kind`` of a node with."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if any(isinstance(s, ast.Attribute) and s.attr == "kind" and ast.unparse(s) != "self.kind" for s in sides):
            words = [n.value for s in sides for n in ast.walk(s) if isinstance(n, ast.Constant)]
            found += [word for word in words if word in OPS]
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("node.kind == 'linear'", ["linear"]),
        ("node.record.kind not in ('conv', 'input')", ["conv"]),
        ("node.kind == 'opaque' or self.kind == 'linear'", []),
    ],
)
def test_a_kind_that_is_called_by_name_is_found(source: str, found: list[str]) -> None:
    assert named_kinds(source) == found


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(NAMES_KINDS)])
def test_kinds_are_asked_and_not_called_by_name(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert named_kinds(source) == []
    classes = {cls.__name__ for _, cls in OPS.items()}
    assert not [name for name in imports(source) if name.startswith("mase.ops.") and name.split(".")[-1] in classes]
