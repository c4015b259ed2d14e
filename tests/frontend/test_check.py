"""What both doors check before and after a trace: the model, its example, its results, that nothing is random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mase.errors import ConfigError, GraphError
from mase.frontend import Front, trace

X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
DOORS: tuple[Front, ...] = ("module", "export")
both = pytest.mark.parametrize("front", DOORS)


class Code(nn.Module):
    """A linear layer, and what a test does with it."""

    def __init__(self, code: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.fc, self.code = nn.Linear(3, 3), code

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


def code(body: Callable[[Any, Any], Any]) -> nn.Module:
    return Code(body).eval()


@pytest.mark.parametrize("front", ["auto", *DOORS])
@pytest.mark.parametrize("model", [None, 3, nn.Linear, F.relu, nn.Linear(3, 3).forward])
def test_what_is_no_module_is_named(model: Any, front: Front) -> None:
    with pytest.raises(GraphError, match=f"model: found {type(model).__name__}; allowed is an nn.Module"):
        trace(model, X, front=front)


@both
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.LazyLinear(3)), "parameter '0.weight': has no shape yet"),
        (nn.Sequential(nn.Linear(3, 3, device="meta")), "parameter '0.weight': is on the device meta"),
    ],
)
def test_models_that_cannot_be_traced_are_named_in_one_line(model: nn.Module, why: str, front: Front) -> None:
    with pytest.raises(GraphError, match=why) as found:
        trace(model.eval(), X, front=front)
    assert "\n" not in str(found.value)


@both
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_is_named_with_its_path(front: Front) -> None:
    with pytest.raises(GraphError, match="module '0': is TorchScript, whose code cannot be followed"):
        trace(nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(3, 3)))).eval(), X, front=front)


@both
def test_a_sparse_example_is_named(front: Front) -> None:
    with pytest.raises(GraphError, match=r"example input 'x': is torch\.sparse_coo; allowed are dense tensors"):
        trace(code(lambda m, x: m.fc(x)), X.to_sparse(), front=front)


def test_a_compiled_model_is_traced_as_it_was_before() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    compiled: Any = torch.compile(model, backend="eager")
    graph, _ = trace(compiled, X)
    assert [node.path for node in graph.operators()] == ["0", "1"]
    assert torch.equal(graph(X), model(X))


@both
@pytest.mark.parametrize("dynamic", [3, None, ("batch", 3), "bacth"])
def test_axes_of_every_wrong_kind_are_named(dynamic: Any, front: Front) -> None:
    with pytest.raises(ConfigError, match="unknown axis; allowed: batch, seq"):
        trace(code(lambda m, x: m.fc(x)), X, front=front, dynamic=dynamic)


@both
@pytest.mark.parametrize("output", [[], {}, 1.5, [None]])
def test_outputs_of_every_wrong_kind_are_named(output: Any, front: Front) -> None:
    with pytest.raises(GraphError, match="give a name or a place, or several of them"):
        trace(code(lambda m, x: m.fc(x)), X, front=front, output=output)


@dataclass
class Result:
    hidden: Any
    logits: Any


@both
def test_fields_of_a_dataclass_are_results(front: Front) -> None:
    model = code(lambda m, x: Result(x * 2, m.fc(x)))
    graph, _ = trace(model, X, front=front)
    assert torch.equal(graph(X), model(X).logits)
    graph, _ = trace(model, X, front=front, output="hidden")
    assert torch.equal(graph(X), X * 2)


@both
@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: F.dropout(m.fc(x), 0.5, training=True),
        lambda m, x: m.fc(x) + torch.rand_like(x),
        lambda m, x: m.fc(x) + torch.randn(3),
        lambda m, x: torch.bernoulli(m.fc(x).sigmoid()),
    ],
)
def test_a_random_result_is_named_with_its_source_line(body: Callable[[Any, Any], Any], front: Front) -> None:
    where = r"module '0' \(test_check.py:\d+: .*\): .*draws random numbers; the result must follow from the inputs"
    with pytest.raises(GraphError, match=where):
        trace(nn.Sequential(code(body)).eval(), X, front=front)


@both
def test_numbers_that_are_drawn_for_nothing_disturb_nothing(front: Front) -> None:
    def body(m: Any, x: Any) -> Any:
        torch.rand([])
        return m.fc(x)

    graph, _ = trace(code(body), X, front=front)
    assert "linear" in [node.kind for node in graph.operators()]
    assert torch.equal(graph(X), graph(X))


def test_a_model_that_writes_into_its_input_leaves_the_example_alone() -> None:
    before, model = X.clone(), code(lambda m, x: m.fc(x.mul_(2)))
    graph, _ = trace(model, X, front="module")
    assert torch.equal(X, before)
    assert torch.equal(graph(X), model(X.clone()))


def test_the_models_own_errors_carry_module_and_line() -> None:
    with pytest.raises(
        GraphError, match=r"module '0' \(test_check.py:\d+: .*\): fails on the example inputs: division"
    ):
        trace(nn.Sequential(code(lambda m, x: 1 / 0)).eval(), X, front="module")


@both
def test_what_the_graph_cannot_run_is_one_line(front: Front) -> None:
    model = code(lambda m, x: torch.vmap(lambda row: row * 2)(x))
    with pytest.raises(GraphError, match="Code"):
        trace(model, X, front=front)
