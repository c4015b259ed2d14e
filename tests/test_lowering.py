"""Operators are built in one place, by all that lies upstream: what is scored is what is built."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mase import lowering as module
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.frontend.module import trace_module
from mase.graph import META, Graph, HwRecord, OpNode, typed
from mase.interpreter import run
from mase.lowering import Lowered, Lowering
from mase.metrics.accuracy import accuracy
from mase.netlist import Netlist, build
from mase.ops.base import Arithmetic
from mase.ops.linear import Linear
from mase.ops.mac import Mac
from mase.scoring import REFUSED, Scorer, Target, space
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

ROOT = Path(__file__).resolve().parent.parent
ROWS = 48
# Windows of 5 to 6 exponent bits on both sides lie about the limit of exact sums, so ``auto`` takes either way.
FORMATS = ("fixed6", "ufixed5", "fixed8.4", "int5", "int6p", "mxint6b2e5", "mxint5b4e5", "mxint7b4e6", "mxint4b2e3")
WEIGHTS = (*FORMATS[2:], "int4c")  # ternary numbers, drawn beside these, are not the result of a unit: refused


def drawn(rng: Random) -> nn.Module:
    """Return linear layers with ReLUs and reshapes between them; sizes are multiples of all blocks."""
    size = rng.choice((4, 8, 12))
    layers: list[nn.Module] = []
    for _ in range(rng.randint(2, 3)):
        outputs = rng.choice((8, 12, 24))
        layers += [nn.Linear(size, outputs), *(nn.ReLU() for _ in range(rng.choice((0, 1, 1, 1, 2))))]
        if rng.random() < 0.7:
            layers += [nn.Unflatten(1, (outputs // 4, 4)), nn.Flatten()]
        size = outputs
    return nn.Sequential(*layers, nn.Linear(size, 4), *[nn.Unflatten(1, (1, 4)), nn.Flatten()][: 2 * rng.randint(0, 1)])


def scorer_of(model: nn.Module, x: Tensor, target: Target, fused: bool = True) -> tuple[Scorer, dict[str, Tensor]]:
    graph = trace_module(model.eval(), (x[:2],))[0]
    graph = fuse(graph)[0] if fused else graph
    samples = ranges(graph, [x])
    labels = torch.randint(0, 4, (x.shape[0],), generator=torch.Generator().manual_seed(0))
    return Scorer(graph, x, labels, samples, target), samples


def quantized(scorer: Scorer, point: Mapping[str, object], samples: dict[str, Tensor]) -> Graph:
    """Return what a run builds for a point."""
    inputs, formats = scorer.config(point)
    config = QuantizeConfig(overrides={path: NodeFormats(**f) for path, f in formats.items()}, inputs=inputs)
    return apply(scorer.graph, config, samples)[0]


def scored_codes(scorer: Scorer, lowered: Lowered, x: Tensor) -> dict[str, Code]:
    """Return the codes of every edge, from the operators that the score comes from."""
    entry = OpNode(lowered.graph, scorer.entries[0].node)
    assert entry.record.output.format is not None
    codes = {entry.name: entry.record.output.format.encode(x, entry.params())}
    for node in scorer.nodes:
        codes[node.name] = lowered.op(node).reference(*(codes[source.name] for source in node.inputs))
    return codes


def same(a: Code, b: Code) -> bool:
    if (a.exponent is None) != (b.exponent is None):
        return False
    return torch.equal(a.mantissa, b.mantissa) and (a.exponent is None or torch.equal(a.exponent, b.exponent))  # type: ignore[arg-type]  # both have one


class Beside(nn.Module):
    """Add or multiply what two branches make of a tensor; a branch of no layers is the tensor itself."""

    def __init__(self, times: bool, *branches: nn.Module) -> None:
        super().__init__()
        self.times, self.branches = times, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        a, b = (branch(x) for branch in self.branches)
        return a * b if self.times else a + b


def drawn_branches(rng: Random) -> nn.Module:
    """Return layers on vectors or on images with branches between them: residual, two layers wide, or of equals."""
    size, image = 8, rng.random() < 0.5

    def layer() -> nn.Module:
        return nn.Conv2d(size, size, rng.choice((1, 3)), padding="same") if image else nn.Linear(size, size)

    def branch() -> nn.Module:
        layers = [part for _ in range(rng.choice((0, 1, 1, 2))) for part in (layer(), nn.ReLU())]
        return nn.Sequential(*layers[: len(layers) - rng.randint(0, 1)])

    first = nn.Conv2d(3, size, 3, padding=1) if image else nn.Linear(5, size)
    joins = [Beside(rng.random() < 0.3, branch(), branch()) for _ in range(rng.randint(1, 2))]
    joins += [Beside(False, nn.Sequential(), nn.Sequential())] if rng.random() < 0.3 else []
    middle = [part for join in joins for part in (join, *[nn.ReLU()] * rng.randint(0, 1))]
    last = [nn.Flatten(), nn.Linear(size * 12, 4)] if image else [nn.Linear(size, 4)]
    return nn.Sequential(first, *middle, *last)


def compared(scorer: Scorer, point: Mapping[str, object], samples: dict[str, Tensor], x: Tensor) -> Netlist | None:
    """Score a point and build it, and compare all that they share; None where both refuse it."""
    metrics, target = scorer(point), scorer.target
    config = MapConfig(target.interval, target.folding)
    try:
        mapped, report = map_graph(quantized(scorer, point, samples), config)
    except UnsupportedOp:
        assert metrics == {"accuracy": 0.0, **REFUSED}
        return None
    lowered, built = scorer.lowered(point), build(mapped)
    expected = run(mapped, (x,), keep=True).codes
    for edge, code in scored_codes(scorer, lowered, x).items():
        assert same(code, expected[edge]), f"{edge}, {point}"
    for node in scorer.nodes:
        made, scored = built.ops[node.name], lowered.op(node)
        assert made.foldings == scored.foldings
        if isinstance(made, Mac):
            assert isinstance(scored, Mac)
            assert (made.low, made.bound, made.accumulation) == (scored.low, scored.bound, scored.accumulation)
    assert metrics == {
        "accuracy": accuracy(mapped(x), scorer.labels),
        "cost": report.cost,
        "bits": stored_bits(mapped),
        "interval": built.interval(),
        "legal": 1.0,
    }
    parts = (*report.choices.values(), *report.converters.values(), *report.forks.values())
    assert report.cost == pytest.approx(sum(part.cost for part in parts), rel=1e-12)  # sums in another order
    return built


@pytest.fixture
def unsized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.map.sized", lambda laid: laid.depths())  # slow, not asked


@pytest.mark.usefixtures("unsized")
def test_random_points_of_random_graphs_are_scored_as_they_are_built() -> None:
    rng, seen = Random(5), dict.fromkeys(("exact", "aligned", "refused", "scored", "behind a reshape", "by hand"), 0)
    for seed in range(16):
        torch.manual_seed(seed)
        model, interval = drawn(rng), rng.choice((None, 6, 30))
        by_hand = {"0": Folding(2, 4)} if rng.random() < 0.6 and interval is None else {}
        x = torch.randn(ROWS, model[0].in_features)  # type: ignore[index,arg-type]  # a sequential model
        scorer, samples = scorer_of(model, x, Target("xcup", interval, by_hand), fused=rng.random() < 0.8)
        axes, points = space(scorer.graph, WEIGHTS, (*FORMATS, "int4g4")), np.random.default_rng(seed)
        for point in [axes.sample(points) for _ in range(3)]:
            built = compared(scorer, point, samples, x)
            if built is None:
                seen["refused"] += 1
                continue
            for node in scorer.nodes:
                made = built.ops[node.name]
                if isinstance(made, Linear):
                    seen["exact" if made.guard is None else "aligned"] += 1
                    seen["behind a reshape"] += node.inputs[0].kind == "layout" and made.low == 0
            seen["scored"] += 1
            seen["by hand"] += bool(by_hand)
    assert min(seen.values()) >= 3, seen


@pytest.mark.usefixtures("unsized")
def test_random_points_of_graphs_that_branch_are_scored_as_they_are_built() -> None:
    rng = Random(6)
    seen = dict.fromkeys(
        ("refused", "vectors", "images", "blocks in images", "forks", "converters", "twice the same"), 0
    )
    for seed in range(10):
        torch.manual_seed(seed)
        model = drawn_branches(rng)
        image = isinstance(model[0], nn.Conv2d)  # type: ignore[index]  # a sequential model
        interval = rng.choice((None, 1, 400, 400) if image else (None, 4, 4))
        x = torch.randn(12, *((3, 3, 4) if image else (5,)))
        scorer, samples = scorer_of(model, x, Target("xcup", interval))
        axes, points = space(scorer.graph, WEIGHTS, FORMATS), np.random.default_rng(seed)
        weights = {name: "int4c" for name in axes.names if image and name == f"{scorer.exit.path}.weight"}
        for point in [{**axes.sample(points), **weights} for _ in range(2)]:
            built = compared(scorer, point, samples, x)
            if built is None:
                seen["refused"] += 1
                continue
            roles = [instance.role for instance in built.instances]
            seen["images" if image else "vectors"] += 1
            grids = [stream.grid for stream in built.edges().values() if stream.rows > 1]
            seen["blocks in images"] += image and any(grid.block for grid in grids)
            seen["forks"] += any(role.startswith("fork") for role in roles)
            seen["converters"] += any(role.startswith("convert") for role in roles)
            seen["twice the same"] += any(
                len({source.name for source in node.inputs}) < len(node.inputs) for node in scorer.nodes
            )
    assert min(seen.values()) >= 2, seen


def stored_bits(graph: Graph) -> float:
    """Return the bits of all weights as their formats store them."""
    bits = 0.0
    for node in graph.operators():
        for kind in [node.record.operands["weight"]] if node.record.operands else []:
            assert kind.format is not None
            bits += kind.format.bits(kind.shape, node.params("weight").axis) * math.prod(kind.shape)
    return bits


def relu_and_reshape() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Unflatten(1, (2, 12)), nn.Flatten(), nn.Linear(24, 4))


def test_what_is_proven_behind_a_reshape_is_scored() -> None:
    """Sums from 0 up take one bit less than sums from -low: here that decides between exact and aligned."""
    torch.manual_seed(0)
    scorer, samples = scorer_of(relu_and_reshape(), torch.randn(64, 12), Target("xcup", None))
    point = {name: "mxint6b2e5" for name in space(scorer.graph, ("mxint6b2e5",), ("mxint6b2e5",)).names}
    last = scorer.nodes[-1]
    scored, built = scorer.lowered(point).op(last), build(quantized(scorer, point, samples)).ops[last.name]
    assert isinstance(scored, Linear)
    assert isinstance(built, Linear)
    assert scored.low == built.low == 0
    assert (scored.accumulation, scored.acc_width) == (built.accumulation, built.acc_width)


def test_operators_are_built_in_one_place() -> None:
    callers = set()
    for path in [p for room in ("mase", "passes", "emit") for p in (ROOT / room).rglob("*.py")]:
        for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(item, ast.Attribute) and item.attr == "from_node":
                callers.add(path.relative_to(ROOT).as_posix())
    assert callers == {"mase/lowering.py"}


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(1)
    scorer, samples = scorer_of(relu_and_reshape(), torch.randn(16, 12), Target("xcup", None))
    point = {name: "fixed6" for name in space(scorer.graph, ("fixed6",), ("fixed6",)).names}
    return quantized(scorer, point, samples)


def operators(lowering: Lowering, graph: Graph) -> dict[str, Arithmetic]:
    lowered = lowering.of(graph)
    return {node.path: lowered.op(node) for node in graph.operators()}


def test_lanes_and_depths_build_nothing_anew(graph: Graph) -> None:
    lowering = Lowering()
    before = operators(lowering, graph)
    hw = {node.name: replace(node.record, hw=HwRecord({"simd": 2, "pe": 2})) for node in graph.operators()}
    assert operators(lowering, graph.replace(hw)) == before


def test_a_change_builds_what_reads_it_and_nothing_else(graph: Graph) -> None:
    lowering = Lowering()
    before = operators(lowering, graph)
    first = graph.node("0")
    attrs = {k: v for k, v in first.record.attrs.items() if k != "activation"}
    records = {first.name: replace(first.record, attrs=attrs)}
    after = operators(lowering, graph.replace(records))
    assert [path for path, op in after.items() if op is before[path]] == ["2", "3"]  # reshapes do not ask for a ReLU
    assert (before["4"].low, after["4"].low < 0) == (0, True)  # type: ignore[attr-defined]  # both are Linear
    last = graph.node("4")
    for node in (first, last):  # what follows reads formats and facts of the first layer, and none of its weights
        after = operators(lowering, graph.replace(tensors={node.record.key("weight"): node.tensor("weight") * 2}))
        assert [path for path, op in after.items() if op is not before[path]] == [node.path]
    after = operators(lowering, graph.replace(quant={last.name: replace(last.params())}))
    assert [path for path, op in after.items() if op is not before[path]] == ["4"]


def test_an_operator_reads_nothing_downstream(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Linear.check_formats
    monkeypatch.setattr(Linear, "check_formats", lambda node: (node.users, read(node)))
    with pytest.raises(AssertionError, match="what lies before it"):
        operators(Lowering(), graph)


def test_the_least_recently_used_operators_are_dropped(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 1)
    lowering = Lowering()
    before = operators(lowering, graph)
    again = operators(lowering, graph.replace())
    assert [path for path, op in again.items() if op is before[path]] == []
    assert list(operators(lowering, lowering.of(graph).graph)) == list(before)


def test_a_deep_graph_has_keys(graph: Graph) -> None:
    out, editable = graph.edited()
    node, record = out.node("4").node, replace(out.node("4").record, kind="requantize", operands={}, attrs={})
    with editable.inserting_before(out.output.node):
        for i in range(1500):  # deeper than Python recurses
            node = editable.call_function(typed, (node,))
            node.name, node.meta = f"r{i}", {META: replace(record, path=f"r{i}")}
    lowered = Lowering().of(out)
    assert len({lowered.key(OpNode(out, node)), lowered.key(out.node("r7")), lowered.key(out.node("r8"))}) == 3
