"""Whole designs that no block of the fit is taken from: predicted beside synthesised."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as Printed

from bench.calibration.fit import error
from emit.synth import synthesize
from emit.verilog import emit
from mase import flow
from mase.cost.estimate import estimate_graph
from mase.cost.resources import Resources
from mase.cost.table import Error
from mase.graph import Graph
from mase.models.mlp import mlp
from mase.paths import configs_dir
from passes.map import Folding, MapConfig, map_graph

AT_ONCE = 2
FIGURES = ("lut", "ff", "dsp", "bram")


@dataclass(frozen=True)
class Case:
    """A perceptron with random weights.

    Args:
        sizes: of its layers. default, overrides: of the quantize section.
        lanes: input and output lanes of each layer: fixed, so that what was synthesised once can be compared for good.
    """

    name: str
    sizes: tuple[int, ...]
    default: Mapping[str, Any]
    lanes: tuple[tuple[int, int], ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def graph(self, target: str) -> Graph:
        """Return the mapped graph."""
        torch.manual_seed(1)
        model, x = mlp(self.sizes).eval(), torch.randn(64, self.sizes[0])
        formats = {"default": dict(self.default), "overrides": dict(self.overrides)}
        graph = flow.quantize(flow.trace(model, x[:2]), formats, [x])
        folding = {f"fc{i}": Folding(*lanes) for i, lanes in enumerate(self.lanes, 1)}
        return map_graph(graph, MapConfig(target=target, folding=folding))[0]


def both(text: str, accumulation: str = "auto") -> Mapping[str, Any]:
    """Return the defaults that give weights and activations one format."""
    return {"weight": text, "activation": text, "accumulation": accumulation}


CASES = (
    Case("fixed6", (64, 64, 32, 10), both("fixed6"), ((16, 4), (16, 2), (1, 5))),
    Case("int8", (64, 64, 32, 10), both("int8"), ((64, 1), (16, 2), (6, 1))),
    Case("mxint6", (64, 64, 32, 10), both("mxint6b8e4"), ((64, 1), (32, 1), (8, 1))),
    Case("aligned", (64, 32, 16), both("mxint4b8e4", "aligned(8)"), ((64, 1), (16, 1))),
    Case("fast", (64, 32, 10), both("fixed4"), ((64, 2), (4, 5))),
    Case("slow", (128, 64, 10), both("fixed8"), ((4, 2), (1, 1))),
    Case(
        "mixed",
        (64, 48, 24, 10),
        both("int6"),
        ((8, 3), (10, 1), (2, 1)),
        {"fc1": {"weight": "mxint4b16e4", "output": "fixed5"}},
    ),
    Case("odd", (40, 30, 20, 10), both("fixed5"), ((4, 3), (6, 1), (2, 1))),
    Case("narrow", (64, 32, 32, 10), both("fixed3"), ((16, 4), (32, 1), (11, 1))),
)


@dataclass(frozen=True)
class Checked:
    """One design, predicted and synthesised."""

    name: str
    predicted: Resources
    synthesised: Resources


def check(target: str = "xcup") -> list[Checked]:
    """Predict and synthesize the quickstart's design and every case, two at a time."""
    return _all_checked({"quickstart": _quickstart()} | {case.name: case.graph(target) for case in CASES}, target)


def check_cases(cases: Sequence[Case], target: str = "xcup") -> list[Checked]:
    """Predict and synthesize other cases."""
    return _all_checked({case.name: case.graph(target) for case in cases}, target)


def _all_checked(graphs: Mapping[str, Graph], target: str) -> list[Checked]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda name: _checked(name, graphs[name], target), graphs))


def errors(checked: Sequence[Checked]) -> dict[str, Error]:
    """Return the relative error of LUTs and flip-flops."""
    return {
        name: error([getattr(c.predicted, name) for c in checked], [getattr(c.synthesised, name) for c in checked])
        for name in ("lut", "ff")
    }


def misses(checked: Sequence[Checked]) -> dict[str, int]:
    """Return by how many blocks DSP and BRAM are off, over all designs."""
    return {
        name: int(sum(abs(getattr(c.predicted, name) - getattr(c.synthesised, name)) for c in checked))
        for name in ("dsp", "bram")
    }


def show(checked: Sequence[Checked]) -> None:
    """Print every design: predicted / synthesised, and what LUTs and flip-flops are off."""
    table = Printed(title="predicted / synthesised", title_justify="left")
    for heading in ("design", *FIGURES, "LUT off", "FF off"):
        table.add_column(heading, justify="left" if heading == "design" else "right")
    for one in checked:
        pairs = [(getattr(one.predicted, name), getattr(one.synthesised, name)) for name in FIGURES]
        off = [f"{100 * (predicted / found - 1):+.1f} %" for predicted, found in pairs[:2]]
        table.add_row(one.name, *(f"{predicted:.0f} / {found:.0f}" for predicted, found in pairs), *off)
    Console(width=120).print(table)


def _quickstart() -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        built = flow.upto(flow.open_run(configs_dir() / "quickstart.yaml", folder), "build").built
    assert built is not None
    return built


def _checked(name: str, graph: Graph, target: str) -> Checked:
    with tempfile.TemporaryDirectory() as folder:
        design = emit(graph, Path(folder) / "design", name)
        return Checked(name, estimate_graph(graph, target).resources, synthesize(design, target).resources)
