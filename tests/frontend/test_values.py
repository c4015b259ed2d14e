"""What a model's code may do with traced values in the module door."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mase.errors import GraphError
from mase.frontend.module import trace_module


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Code(nn.Module):
    def __init__(self, code: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.fc, self.code = nn.Linear(3, 3), code

    def forward(self, x: Tensor) -> Any:
        return self.code(self, x)


class Double(torch.autograd.Function):
    """A function of the user's own, which PyTorch hands on to C."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2


def _doubled(m: Any, x: Any) -> Any:
    apply: Any = Double.apply
    return apply(m.fc(x))


@pytest.mark.parametrize(
    ("body", "kinds"),
    [
        (lambda m, x: x * 2 if isinstance(x, Tensor) else x, ["mul"]),
        (lambda m, x: x * 2 if isinstance(x, str) else x, []),
        (lambda m, x: (x > 0) & (x < 1), ["opaque"] * 3),
        (lambda m, x: (x > 0) | ~(x < 1), ["opaque"] * 4),
        (lambda m, x: x.data * 2, ["mul"]),
        (_doubled, ["linear", "mul"]),
        (lambda m, x: m.fc.weight, ["constant"]),
        (lambda m, x: m.fc(x.mul_(2)), ["mul", "linear"]),
    ],
)
def test_everyday_code_is_followed(body: Callable[[Any, Any], Any], kinds: list[str]) -> None:
    model, x = Code(body).eval(), draw(2, 3)
    graph, _ = trace_module(model, x)
    assert [node.kind for node in graph.operators()] == kinds
    assert torch.equal(graph(x), model(x.clone()))


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda m, inputs, output: output * 2)
    return model


def _hooked_first() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_pre_hook(lambda m, inputs: inputs[0] * 2)
    return model


def _hooked_outside() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.register_forward_pre_hook(lambda m, inputs: inputs[0] * 2)
    return model


def _patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    setattr(model[0], "forward", lambda x: x * 3)  # noqa: B010  # mypy: no assignment to a method
    return model


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (_hooked, ["linear", "mul", "activation"]),
        (_hooked_first, ["mul", "linear", "activation"]),
        (_hooked_outside, ["mul", "linear", "activation"]),
        (_patched, ["mul", "activation"]),
    ],
)
def test_hooks_and_methods_of_an_instance_are_part_of_the_graph(
    make: Callable[[], nn.Module], kinds: list[str]
) -> None:
    model, x = make().eval(), draw(2, 3)
    graph, _ = trace_module(model, x)
    assert [node.kind for node in graph.operators()] == kinds
    assert torch.equal(graph(x), model(x))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_a_parametrization_computes_is_computed_once(wrap: Any, tmp_path: Any) -> None:
    fc, x = wrap(nn.Linear(3, 3)), draw(2, 3)
    model = nn.Sequential(fc, nn.ReLU()).eval()
    graph, report = trace_module(model, x)
    assert graph.node("0").kind == "linear"
    assert torch.equal(graph.node("0").tensor("weight"), fc.weight)
    assert "0.weight: computed once from its parametrization" in report.notes
    graph.save(tmp_path / "graph")
    assert torch.equal(type(graph).load(tmp_path / "graph")(x), model(x))


def test_autocast_inside_the_model_is_named() -> None:
    def body(m: Any, x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.fc(x)

    with pytest.raises(GraphError, match=r"module 'fc' .*: autocast is on"):
        trace_module(Code(body).eval(), draw(2, 3))


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x[x > 0],
        lambda m, x: x[x[:, 0] > 0, 1],
        lambda m, x: x.nonzero(),
        lambda m, x: torch.masked_select(x, x > 0),
        lambda m, x: torch.unique(x),
    ],
)
def test_shapes_that_depend_on_data_are_refused(body: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(
        GraphError, match=r"\(test_values.py:\d+\): data-dependent shape: elements are chosen by the val"
    ):
        trace_module(Code(body).eval(), draw(2, 3))


def test_elements_may_be_chosen_by_places_and_by_constant_masks() -> None:
    mask, model = torch.tensor([True, False, True]), Code(lambda m, x: x[:, x.argmax(1)])
    for body in (model, Code(lambda m, x: x[:, mask]), Code(lambda m, x: torch.where(x > 0, x, -x))):
        graph, _ = trace_module(body.eval(), draw(2, 3))
        assert torch.equal(graph(draw(2, 3)), body(draw(2, 3)))
