"""Tracing plain modules: typed nodes, checks against the model, hostile names, clear refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mase.errors import GraphError
from mase.frontend.module import trace_module
from mase.ops.layout import Layout

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A module of the user's own, which is traced through."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fc, self.fails = nn.Linear(3, 3, bias=False), fails

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        if self.fails == "branch" and x.sum() > 0:
            return x
        y = torch.relu(self.fc(x)).reshape(-1, 3, 1)
        return y.flatten(1) * 2


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_known_modules_and_functions_become_typed_nodes() -> None:
    model = Block().eval()
    graph, report = trace_module(model, (X,))
    assert [node.kind for node in graph.operators()] == ["linear", "activation", "layout", "layout", "mul"]
    assert report.lifted == ("fc", "relu", "reshape", "flatten", "mul")
    assert report.opaque == {}
    assert "5 typed nodes, 0 refused, 0 opaque; equal to the model bit for bit" in str(report)
    assert torch.equal(graph(X), model(X))


class Idioms(nn.Module):
    """Reshapes as people write them."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x).view(x.size(0), 3, 1)
        x = x.reshape(x.shape[0], -1)
        return torch.flatten(x.view((-1, 1, 3)), 1)


def test_reshapes_to_the_sizes_of_a_tensor_are_layouts() -> None:
    model = Idioms().eval()
    graph, report = trace_module(model, (X,))
    assert [node.kind for node in graph.operators()] == ["activation", "layout", "layout", "layout", "layout"]
    assert report.opaque == {}
    assert [node.record.output.shape for node in graph.operators()][1:] == [(4, 3, 1), (4, 3), (4, 1, 3), (4, 3)]
    assert torch.equal(graph(X[:2]), model(X[:2]))


def test_every_record_says_what_its_node_produces() -> None:
    graph, _ = trace_module(Block().eval(), (X,))
    shapes = {node.path: node.record.output.shape for node in graph.nodes()}
    assert shapes == {
        "x": (4, 3),
        "fc": (4, 3),
        "relu": (4, 3),
        "reshape": (4, 3, 1),
        "flatten": (4, 3),
        "mul": (4, 3),
        "output": (4, 3),
    }


def test_a_reshape_that_moves_the_batch_is_a_layout_without_hardware() -> None:
    class Batch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1)

    graph, _ = trace_module(Batch().eval(), (X,))
    assert graph.node("reshape").record.attrs == {"function": "view", "shape": [-1]}
    assert not Layout.builds(graph.node("reshape").record)
    assert torch.equal(graph(X[:3]), X[:3].reshape(-1))


def test_source_lines_are_the_users() -> None:
    graph, _ = trace_module(Block().eval(), (X,))
    line = Block.forward.__code__.co_firstlineno + 3
    assert graph.node("fc").record.source == f"test_module.py:{line}"
    assert graph.node("fc").where() == f"node 'fc' (linear, test_module.py:{line})"


def test_weights_are_shared_with_the_model() -> None:
    model = Block().eval()
    graph, _ = trace_module(model, (X,))
    assert graph.tensors["fc.weight"].data_ptr() == model.fc.weight.data_ptr()


@pytest.mark.parametrize(
    "name", ['a"b', "line\nbreak", '"); print("x") #', "größe", "a b", "lambda", "x" * 300, "\\", "{0}"]
)
def test_a_module_may_have_any_name(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 2))
    model.add_module(f"{name}?", nn.Softmin(1))  # stays opaque
    graph, _ = trace_module(model.eval(), (X,))
    assert [node.path for node in graph.operators()] == [name, f"{name}?"]
    assert torch.equal(graph.replace()(X), model(X))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


class Wrong(nn.Module):
    """Computes something else the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(3, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


def _nan() -> nn.Module:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    return nn.Sequential(model)


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train(), (X,), "in training mode; call model.eval"),
        (_nan().eval(), (X,), "parameter '0.weight': holds NaN or infinity"),
        (Block("branch").eval(), (X,), "Block: cannot be traced: .*control flow"),
        (Block().eval(), (torch.randn(4, 5),), "Block: fails on the example inputs"),
        (Block().eval(), (), "a tuple of tensors with a batch axis is needed"),
        (Block().eval(), (torch.tensor(1.0),), "a tuple of tensors with a batch axis is needed"),
        (Two().eval(), (X,), "found 1; the model takes 2 .'y' is missing"),
        (Twice().eval(), (X,), "returns more than one tensor"),
        (Wrong().eval(), (X,), "Wrong: the traced graph differs from the model on the example"),
    ],
)
def test_refused_with_reason(model: nn.Module, inputs: tuple[Tensor, ...], why: str) -> None:
    with pytest.raises(GraphError, match=why):
        trace_module(model, inputs)
