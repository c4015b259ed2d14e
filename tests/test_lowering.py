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
from mase.netlist import build
from mase.ops.base import HardwareOp
from mase.ops.linear import Linear
from mase.scoring import REFUSED, Scorer, Target, space
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

ROOT = Path(__file__).resolve().parent.parent
ROWS = 48
# Windows of 5 to 6 exponent bits on both sides lie about the limit of exact sums, so ``auto`` takes either way.
FORMATS = ("fixed6", "ufixed5", "fixed8.4", "int5", "int6p", "mxint6b2e5", "mxint5b4e5", "mxint7b4e6", "mxint4b2e3")
WEIGHTS = (*FORMATS[2:], "int4c")


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
    entry = OpNode(lowered.graph, scorer.entry.node)
    assert entry.record.output.format is not None
    codes = {entry.name: entry.record.output.format.encode(x, entry.params())}
    for node in scorer.nodes:
        codes[node.name] = lowered.op(node).reference(codes[node.inputs[0].name])
    return codes


def same(a: Code, b: Code) -> bool:
    if (a.exponent is None) != (b.exponent is None):
        return False
    return torch.equal(a.mantissa, b.mantissa) and (a.exponent is None or torch.equal(a.exponent, b.exponent))  # type: ignore[arg-type]  # both have one


def test_random_points_of_random_graphs_are_scored_as_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.map.sized", lambda laid: laid.depths())  # slow, not asked
    rng, seen = Random(5), dict.fromkeys(("exact", "aligned", "refused", "scored", "behind a reshape", "by hand"), 0)
    for seed in range(16):
        torch.manual_seed(seed)
        model, interval = drawn(rng), rng.choice((None, 6, 30))
        by_hand = {"0": (2, 4)} if rng.random() < 0.6 and interval is None else {}
        x = torch.randn(ROWS, model[0].in_features)  # type: ignore[index,arg-type]  # a sequential model
        scorer, samples = scorer_of(model, x, Target("xcup", interval, by_hand), fused=rng.random() < 0.8)
        axes, points = space(scorer.graph, WEIGHTS, FORMATS), np.random.default_rng(seed)
        config = MapConfig(interval, {glob: Folding(*lanes) for glob, lanes in by_hand.items()})
        for point in [axes.sample(points) for _ in range(3)]:
            metrics = scorer(point)
            try:
                graph = quantized(scorer, point, samples)
                mapped, report = map_graph(graph, config)
            except UnsupportedOp:
                assert metrics == REFUSED
                seen["refused"] += 1
                continue
            lowered, built = scorer.lowered(point), build(mapped)
            expected = run(mapped, (x,), keep=True).codes
            for edge, code in scored_codes(scorer, lowered, x).items():
                assert same(code, expected[edge]), f"seed {seed}, {edge}, {point}"
            for node in scorer.nodes:
                made, scored = built.ops[node.name], lowered.op(node)
                assert made.foldings == scored.foldings
                if isinstance(made, Linear):
                    assert isinstance(scored, Linear)
                    assert (made.low, made.bound, made.accumulation) == (scored.low, scored.bound, scored.accumulation)
                    seen["exact" if made.guard is None else "aligned"] += 1
                    seen["behind a reshape"] += node.inputs[0].kind == "layout" and made.low == 0
            assert metrics == {
                "accuracy": accuracy(mapped(x), scorer.labels),
                "cost": report.cost,
                "bits": stored_bits(mapped),
                "interval": built.interval(),
                "legal": 1.0,
            }
            seen["scored"] += 1
            seen["by hand"] += bool(by_hand)
    assert min(seen.values()) >= 3, seen


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


def operators(lowering: Lowering, graph: Graph) -> dict[str, HardwareOp]:
    lowered = lowering.of(graph)
    return {node.path: lowered.op(node) for node in graph.operators()}


def test_lanes_and_depths_build_nothing_anew(graph: Graph) -> None:
    lowering = Lowering()
    before = operators(lowering, graph)
    hw = {node.name: replace(node.record, hw=HwRecord(2, 2)) for node in graph.operators()}
    assert operators(lowering, graph.replace(hw)) == before


def test_a_change_builds_what_follows_it_and_nothing_before(graph: Graph) -> None:
    lowering = Lowering()
    before = operators(lowering, graph)
    first = graph.node("0")
    attrs = {k: v for k, v in first.record.attrs.items() if k != "activation"}
    records = {first.name: replace(first.record, attrs=attrs)}
    after = operators(lowering, graph.replace(records))
    assert [path for path, op in after.items() if op is before[path]] == []  # without a ReLU, all is otherwise
    assert (before["4"].low, after["4"].low < 0) == (0, True)  # type: ignore[attr-defined]  # both are Linear
    last = graph.node("4")
    after = operators(lowering, graph.replace(tensors={last.record.key("weight"): last.tensor("weight") * 2}))
    assert [path for path, op in after.items() if op is not before[path]] == ["4"]
    after = operators(lowering, graph.replace(quant={last.name: replace(last.params())}))
    assert [path for path, op in after.items() if op is not before[path]] == ["4"]


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
