"""Every method runs on the engine: what it writes is what the graph computes with, and what a file gives again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mase
from mase.errors import ConfigError
from mase.formats.packed import PackedWeight
from mase.formats.packed_file import from_tensors, to_tensors
from mase.graph import Graph, Record, TensorType
from passes.ptq.base import METHODS
from passes.ptq.engine import PtqReport
from tests.ptq.models import graph, tokens

FEW = {"iters": 4, "steps": 4, "epochs": 1}  # of what trains


def same(a: PackedWeight, b: PackedWeight) -> bool:
    pairs = zip(a.branch or (), b.branch or (), strict=True)
    return torch.equal(a.dense(), b.dense()) and all(same(*pair) for pair in pairs)


def plain(record: Record) -> dict[str, TensorType]:
    return {role: replace(kind, format=None) for role, kind in record.operands.items()}


def quantized(g: Graph, step: dict[str, dict[str, int]], x: Tensor) -> tuple[Graph, PtqReport]:
    """Run a step where it belongs: behind a quantizer, before it, or behind one that leaves branches."""
    for recipe in (["rtn", step], [step, "rtn"]):
        try:
            return mase.ptq(g, recipe, x)
        except ConfigError:
            continue
    return mase.ptq(g, ["qlora", step], x)


@pytest.mark.filterwarnings("ignore:.*tokens for")  # few tokens: the figures do not matter here
@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_runs_on_the_engine(name: str) -> None:
    fields = {key: value for key, value in FEW.items() if key in METHODS[name].__dataclass_fields__}
    g, x = graph(layers=2), tokens(8)
    built, report = quantized(g, {name: fields}, x)
    assert len(report.layers) == 14
    for path, packed in report.packed.items():
        key = g.node(path).record.key("weight")
        assert torch.equal(built.tensors[key], packed.dense())
        assert same(from_tensors(*to_tensors(packed)), packed)
    found = built(tokens(3, seed=5))
    nodes = list(built.operators())
    bare = built.replace({node.name: replace(node.record, operands=plain(node.record)) for node in nodes})
    assert torch.equal(bare(tokens(3, seed=5)), found)  # formats round the values of the table to themselves
    assert torch.isfinite(found).all()
