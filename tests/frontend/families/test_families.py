"""Every family comes through the export door: equal to the model, every weight found, what is opaque named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mase.calib.cut import cut
from mase.frontend.export import trace_export
from mase.graph import Graph
from tests.calib.parts import BLOCKS, check
from tests.frontend.families.__main__ import cells
from tests.frontend.families.models import FAMILIES, Family
from tests.frontend.families.weights import expected, found

PAGE = Path(__file__).parents[3] / "docs" / "families.md"
ROWS = dict(
    re.findall(r"^\| ([^|]+) (\| \d.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
)  # of the page's table
DYNAMIC = ("Llama", "Mixtral", "GPT-2", "Mamba", "BERT", "ViT")  # the others: python -m tests.frontend.families


def equal(graph: Graph, model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    with torch.no_grad():
        want = model(**inputs)
    if not isinstance(want, Tensor):
        want = want[graph.output.record.attrs["fields"][0]]
    return torch.equal(graph(**inputs), want)


def other(inputs: Mapping[str, Tensor], batch: int | None = None) -> dict[str, Tensor]:
    """Inputs that the trace has not seen."""
    out = {}
    for name, x in inputs.items():
        shape = (batch or x.shape[0], *x.shape[1:])
        out[name] = torch.randn(shape) if x.is_floating_point() else torch.randint(int(x.max()) + 1, shape)
    return out


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_is_traced_with_every_weight(family: Family) -> None:
    model, inputs = family.build()
    graph, report = trace_export(model, inputs, family.output)
    assert equal(graph, model, inputs)
    assert equal(graph, model, other(inputs))
    made = cut(graph)
    check(made, tuple(other(inputs).values()))
    names = tuple(part.name for part in made.blocks)
    assert names == BLOCKS.get(family.name, names)
    assert report.worst == report.bound == 0.0
    assert set(report.refused) == set(family.refused)
    assert {reason.split(":")[0] for reason in report.opaque.values()} <= set(family.opaque)
    wanted = expected(model)
    assert len(wanted) == family.weights
    assert wanted.keys() <= found(graph).keys()
    assert ROWS[family.name].startswith(f"| {family.weights} | {cells(graph, report)} |")
    shared = {name: p for name, p in model.named_parameters() if name in graph.tensors}
    assert all(graph.tensors[name].data_ptr() == p.data_ptr() for name, p in shared.items())


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in DYNAMIC], ids=lambda family: family.name)
def test_batch_and_length_are_free_where_the_model_allows(family: Family) -> None:
    model, inputs = family.build()
    graph, report = trace_export(model, inputs, family.output, dynamic=family.dynamic)
    assert f"| {', '.join(family.dynamic)} | {len(report.lifted)} | {len(report.opaque)} |" in ROWS[family.name]
    assert equal(graph, model, other(inputs, batch=5))
    assert equal(graph, model, other(inputs, batch=1))
    if "seq" in family.dynamic:
        shorter = {name: x[:, :5] for name, x in other(inputs, batch=3).items()}
        assert equal(graph, model, shorter)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("Llama", torch.bfloat16), ("Llama", torch.float16), ("Gemma2", torch.bfloat16), ("T5 encoder", torch.bfloat16)],
)
def test_models_of_16_bits_keep_their_casts(name: str, dtype: torch.dtype) -> None:
    model, inputs = next(family for family in FAMILIES if family.name == name).build()
    graph, report = trace_export(model.to(dtype), inputs)
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    assert [node.kind for node in graph.operators()].count("norm") == len(norms)
    assert (report.worst, report.opaque) == (0.0, {})
    assert graph(**inputs).dtype == dtype


@pytest.mark.parametrize("name", ["Llama", "BERT", "GPT-2"])
def test_attention_is_found_however_the_model_computes_it(name: str) -> None:
    model, inputs = next(family for family in FAMILIES if family.name == name).build()
    counts = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        graph, _ = trace_export(model, inputs)
        counts.append([node.kind for node in graph.operators()].count("attention"))
        assert graph.bodies == {}
    assert counts == [2, 2]
