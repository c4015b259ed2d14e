"""Adapters: requantize nodes where a reader takes another format than comes; what is scored is what is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mase.calib.adapt import inserted, pruned
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.interpreter import is_exact, run
from mase.metrics.accuracy import accuracy
from mase.netlist import build
from mase.scoring import Scorer, Target, space
from mase.testing import Mapped, OpLaws, same_codes
from passes.adapt import adapt
from passes.map import MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, apply, quantize, ranges
from tests.ops.branches import Joined, draw, mapped, quantized
from tests.ops.conftest import prove

__all__ = ("prove",)  # a fixture of the operators' tests

FORMATS = ("fixed6", "ufixed5", "fixed8.4", "int5", "mxint8b2e5", "mxint4b2e3", "bfp5b4e3", "e3m2")


def beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat((a, b), 1)


def stacked(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack((a, b), 1)


def joins(
    join: Callable[[Tensor, Tensor], Tensor], formats: tuple[str, str, str], shape: tuple[int, ...], seed: int
) -> Mapped:
    """Return two branches with formats of their own and the join with its own."""
    torch.manual_seed(seed)
    x = draw(6, *shape, seed=seed)
    layer = nn.Linear(shape[-1], shape[-1]) if len(shape) < 3 else nn.Conv2d(shape[0], shape[0], 1)
    given = {
        "left": NodeFormats("int5", output=formats[0]),
        "right": NodeFormats(output=formats[1]),
        "[cs]*": NodeFormats(output=formats[2]),
    }
    graph = quantized(Joined(join, layer, nn.ReLU()), x, formats[1], given)
    return mapped(graph, x)


def tabled(source: str, target: str) -> Mapped:
    """Return a function of an input with more bits than a table takes."""
    x = draw(6, 2, 6)
    graph = quantized(nn.Sequential(nn.ReLU(), nn.Tanh()), x, source, {"0": source, "1": target})
    return mapped(graph, x)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "concat": joins(beside, ("fixed6.3", "ufixed5.1", "fixed6.2"), (3,), 0),
        "scales": joins(beside, ("int6", "int5", "int5"), (2, 5), 1),
        "pixels": joins(beside, ("mxint4b2e3", "fixed5.2", "mxint5b2e3"), (4, 2, 2), 2),
        "stack": joins(stacked, ("fixed5.2", "mxint4b2e2", "int6"), (4,), 3),
        "table": tabled("mxint8b2e5", "fixed6.4"),
    }


class TestLaws(OpLaws):
    kind = "requantize"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_each_side_that_differs_gets_one() -> None:
    def names(name: str) -> list[str]:
        return [node.name for node in cases()[name].graph.operators() if node.kind == "requantize"]

    assert names("concat") == ["cat_adapt", "cat_adapt1"]
    assert names("table") == ["_1_adapt"]
    assert names("scales") == ["cat_adapt"]  # the other side has the format, and the scale, of the result
    same = joins(beside, ("fixed6.2", "fixed6.2", "fixed6.2"), (3,), 0).graph
    assert {node.kind for node in same.operators()} == {"linear", "activation", "layout"}


def test_an_adapter_has_the_parameters_of_the_result() -> None:
    graph = cases()["scales"].graph
    join, one = graph.node("cat"), graph.node("cat_adapt")
    assert (one.path, one.record.output.format) == ("cat.adapt", join.record.output.format)
    assert one.params().scale is join.params().scale
    assert all(map(is_exact, graph.operators()))


def test_a_wide_input_of_a_table_becomes_fixed_point_fitted_to_what_comes() -> None:
    graph = cases()["table"].graph
    assert str(graph.node("_1_adapt").record.output.format) == "fixed10.7"  # up to 3.3: two bits before the point


def test_the_pass_puts_them_in_once_and_pruning_takes_them_out() -> None:
    x = draw(6, 3)
    graph = trace_module(Joined(beside, nn.Linear(3, 3), nn.ReLU()).eval(), (x,))[0]
    done, report = adapt(graph)
    assert report.adapters == ("cat_adapt", "cat_adapt1")
    assert torch.equal(done(x), graph(x))
    assert inserted(done) is done
    assert [node.name for node in pruned(done).operators()] == [node.name for node in graph.operators()]
    assert [node.name for node in graph.operators()] == ["left", "right", "cat"]  # the input is untouched
    plain = trace_module(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), (x,))[0]
    assert inserted(plain) is plain


def test_without_formats_nothing_stays() -> None:
    x = draw(6, 3)
    graph = trace_module(Joined(beside, nn.Linear(3, 3), nn.Tanh()).eval(), (x,))[0]
    done = quantize.run(graph, QuantizeConfig(), [x])[0]
    assert [node.kind for node in done.operators()] == ["linear", "activation", "layout"]


class Branches(nn.Module):
    """Layers beside each other, joined, through a function, into scores."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self.stack, size = rng.random() < 0.3, 4
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(size, size), rng.choice((nn.ReLU, nn.Tanh, nn.Sigmoid))())
            for _ in range(rng.randint(2, 3))
        )
        self.own = rng.random() < 0.5  # the input itself is joined too
        joined = (len(self.parts) + self.own) * size
        self.after = nn.Sequential(nn.Flatten(), rng.choice((nn.Tanh, nn.ReLU))(), nn.Linear(joined, 4))

    def forward(self, x: Tensor) -> Tensor:
        parts = [part(x) for part in self.parts] + [x] * self.own
        found: Tensor = self.after(torch.stack(parts, 1) if self.stack else torch.cat(parts, 1))
        return found


@pytest.mark.parametrize("seed", range(4))
def test_what_is_scored_is_what_is_built(seed: int, tmp_path: Path) -> None:
    rng = Random(seed)
    torch.manual_seed(seed)
    x, labels = draw(24, 4, seed=seed), torch.arange(24) % 4
    graph = trace_module(Branches(rng).eval(), (x[:2],))[0]
    samples = ranges(graph, [x])
    scorer = Scorer(graph, x, labels, samples, Target("xcup", None))
    axes = space(graph, ("int5", "int4c"), FORMATS)
    built = 0
    for point in (axes.sample(np.random.default_rng(seed)) for seed in range(10 * seed, 10 * seed + 3)):
        metrics = scorer(point)
        if not metrics["legal"]:
            continue
        done, cost = made(graph, scorer, point, samples)
        assert (metrics["accuracy"], metrics["cost"]) == (accuracy(done(x), labels), cost)
        done.save(tmp_path / f"{built}")
        loaded = build(Graph.load(tmp_path / f"{built}"))
        (entry,) = loaded.entries
        codes = run(done, (x,), keep=True).codes
        for edge, code in loaded.codes(codes[entry], oracle=True).items():
            assert same_codes(code, codes[edge]), edge
        built += 1
    assert built


def made(
    graph: Graph, scorer: Scorer, point: Mapping[str, object], samples: Mapping[str, Tensor]
) -> tuple[Graph, float]:
    """Return the graph that a run builds for a point, and its cost."""
    inputs, formats = scorer.config(point)
    config = QuantizeConfig(overrides={path: NodeFormats(**f) for path, f in formats.items()}, inputs=inputs)
    done, report = map_graph(apply(graph, config, samples)[0], MapConfig())
    return done, report.cost
