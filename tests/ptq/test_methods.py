"""Every method runs on the engine: what it writes is what the graph computes with, and what a file gives again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import mase
from mase.calib.layers import places
from mase.formats.packed import PackedWeight
from mase.formats.packed_file import from_tensors, to_tensors
from mase.graph import Record, TensorType
from passes.ptq.base import METHODS
from tests.ptq.models import graph, tokens

FEW = {"iters": 4, "steps": 4, "epochs": 1}  # of what trains


def same(a: PackedWeight, b: PackedWeight) -> bool:
    pairs = zip(a.branch or (), b.branch or (), strict=True)
    return torch.equal(a.dense(), b.dense()) and all(same(*pair) for pair in pairs)


def plain(record: Record) -> dict[str, TensorType]:
    return {role: replace(kind, format=None) for role, kind in record.operands.items()}


def recipe(name: str, step: object) -> list[object]:
    """Return a recipe in which a step stands where it belongs."""
    around = {"fold": [step, "rtn"], "quantizer": [step], "branch": ["rtn", step], "tuning": ["qlora", step]}
    return around[METHODS[name].stage]


@pytest.mark.filterwarnings("ignore:.*tokens for")  # few tokens: the figures do not matter here
@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_runs_on_the_engine(name: str) -> None:
    fields = {key: value for key, value in FEW.items() if key in METHODS[name].__dataclass_fields__}
    g, x = graph("mixtral" if name == "mc_moe" else "llama", layers=2), tokens(8)
    built, report = mase.ptq(g, recipe(name, {name: fields}), x)
    found = {place.path: place for place in places(built)}
    assert len(report.layers) == len(report.packed) >= 14
    for path, packed in report.packed.items():
        assert torch.equal(found[path].weight(built), packed.dense())
        assert same(from_tensors(*to_tensors(packed)), packed)
    y = built(tokens(3, seed=5))
    nodes = list(built.operators())
    bare = built.replace({node.name: replace(node.record, operands=plain(node.record)) for node in nodes})
    assert torch.equal(bare(tokens(3, seed=5)), y)  # formats round the values of the table to themselves
    assert torch.isfinite(y).all()
