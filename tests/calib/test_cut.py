"""A model in parts computes what the whole computes, bit for bit; all families: tests/frontend/families."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mase.calib.cut import cut
from mase.frontend import trace
from mase.frontend.export import trace_export
from mase.models.base import build
from tests.calib.parts import check
from tests.frontend.families.models import FAMILIES


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_our_own_models_are_cut_and_tables_are_shared(name: str) -> None:
    torch.manual_seed(0)
    graph, _ = trace(build(name, {"dim": 16, "hidden": 16}).eval(), torch.randint(0, 256, (2, 8)))
    made = cut(graph)
    assert [part.name for part in made.parts] == ["prologue", "blocks.0", "blocks.1", "blocks.2", "epilogue"]
    assert all(len(part.takes) == len(part.gives) == 1 for part in made.blocks)  # the rotary tables are in each block
    assert all(part.graph.tensors["cos"] is graph.tensors["cos"] for part in made.blocks)
    check(made, (torch.randint(0, 256, (3, 8)),))


def test_a_free_length_comes_in_as_an_edge() -> None:
    family = next(f for f in FAMILIES if f.name == "Llama")
    model, inputs = family.build()
    graph, _ = trace_export(model, inputs, dynamic=("batch", "seq"))
    made = cut(graph)
    check(made, (torch.randint(0, 64, (3, 5)),))
    check(made, (torch.randint(0, 64, (1, 9)),))
    assert len(made.blocks) == 2


def test_lone_layers_in_a_list_are_not_blocks() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]).eval()
    made = cut(trace(model, torch.randn(2, 4))[0])
    assert [part.name for part in made.blocks] == ["model"]


def test_what_lies_between_blocks_belongs_to_the_later_one() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x
            for part in self.parts:
                x = torch.tanh(part(x)) + first  # of no block by its path
            return x

    x = torch.randn(2, 4)
    made = cut(trace(Net().eval(), x)[0])
    assert [part.name for part in made.blocks] == ["parts.0", "parts.1", "parts.2"]
    assert [sum(n.kind == "add" for n in part.graph.nodes()) for part in made.parts] == [0, 1, 1, 1]
    check(made, (x,))
