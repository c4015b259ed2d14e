"""The check of a cut: its parts compute what the whole computes."""

from __future__ import annotations

import torch
from torch import Tensor

from mase.calib.cut import Cut, joined

BLOCKS = {
    "MLP": ("model",),
    "CNN": ("model",),
    "LSTM": ("model",),
    "Llama": ("model.layers.0", "model.layers.1"),
    "Gemma2": ("model.layers.0", "model.layers.1"),
    "Mixtral": ("model.layers.0", "model.layers.1"),
    "GPT-2": ("transformer.h.0", "transformer.h.1"),
    "BERT": ("encoder.layer.0", "encoder.layer.1"),
    "T5 encoder": ("encoder.block.0", "encoder.block.1"),
    "Swin": tuple(f"swin.encoder.layers.{i}.blocks.{j}" for i in range(2) for j in range(2)),
}  # of some families, by name


def check(made: Cut, inputs: tuple[Tensor, ...]) -> None:
    """Compare the parts, and the parts joined again, with the graph, bit for bit."""
    graph = made.graph
    for part in made.parts:
        part.graph.verify()
    want = graph.fields(*inputs)
    whole = joined(made.parts, graph.inputs, graph.output.record, [n.name for n in graph.output.inputs]).verify()
    for found in (made.fields(*inputs), whole.fields(*inputs)):
        assert found.keys() == want.keys()
        assert all(torch.equal(found[name], want[name]) for name in want)
    linear = [node.name for node in graph.nodes() if node.kind == "linear"]
    assert [node.name for node in whole.nodes() if node.kind == "linear"] == linear
    assert [node.name for part in made.parts for node in part.graph.nodes() if node.kind == "linear"] == linear
