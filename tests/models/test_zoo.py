"""Every model of the zoo builds, runs, learns in a step, traces, and refuses wrong options in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.data.base import Task
from mase.errors import ConfigError
from mase.models.base import MODELS, build
from mase.training import loss

FILES = {"huggingface", "onnx"}  # these load what others built
IMAGE, IDS = (3, 32, 32), (12,)
# model, options -> shape of an input without its batch, shape of an output, parameters
ZOO: list[tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], int]] = [
    ("mlp", {}, (64,), (10,), 6_570),
    ("lenet", {}, (1, 28, 28), (10,), 61_706),  # the original's own figure
    ("resnet", {}, IMAGE, (10,), 78_042),
    ("resnet", {"depth": 20}, IMAGE, (10,), 272_474),
    ("mobilenet", {}, IMAGE, (10,), 86_922),
    ("mobilenet", {"width": 0.5}, IMAGE, (10,), 27_066),
    ("ds_cnn", {}, (1, 49, 10), (12,), 23_180),
    ("autoencoder", {}, (640,), (640,), 266_896),
    ("vit", {}, IMAGE, (10,), 141_898),
    ("llama", {}, IDS, (12, 256), 619_392),
    ("mixtral", {}, IDS, (12, 256), 465_696),
    ("s6la", {}, IMAGE, (10,), 21_230),
]
NAMES = [f"{name}{''.join(str(v) for v in options.values())}" for name, options, *_ in ZOO]
zoo = pytest.mark.parametrize(("name", "options", "shape", "output", "size"), ZOO, ids=NAMES)


def sample(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randint(256, (batch, *shape)) if shape == IDS else torch.rand(batch, *shape)


def built(name: str, options: Mapping[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    return build(name, options)


def test_every_model_is_here() -> None:
    assert {name for name, *_ in ZOO} | FILES >= set(MODELS)


@zoo
def test_it_builds_and_runs(
    name: str, options: dict[str, Any], shape: tuple[int, ...], output: tuple[int, ...], size: int
) -> None:
    model = built(name, options).eval()
    x = sample(shape)
    y = model(x)
    assert y.shape == (2, *output)
    assert y.isfinite().all()
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    alone = torch.cat([model(row) for row in x.split(1)])
    assert torch.allclose(y, alone, atol=1e-4)  # rows are independent; sums may be ordered otherwise


@zoo
def test_a_step_of_training_lowers_a_finite_loss_and_reaches_every_parameter(
    name: str, options: dict[str, Any], shape: tuple[int, ...], output: tuple[int, ...], size: int
) -> None:
    model, x = built(name, options).train(), sample(shape, batch=16)
    task: Task = {"autoencoder": "values", "llama": "tokens", "mixtral": "tokens"}.get(name, "classes")  # type: ignore[assignment]
    y = {"values": x, "tokens": x, "classes": torch.arange(16) % 10}[task]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    before = loss(task, model(x), y)
    before.backward()
    assert before.isfinite()
    reached = {
        key: parameter.grad is not None and bool(parameter.grad.any()) for key, parameter in model.named_parameters()
    }
    assert all(reached.values()), [key for key, value in reached.items() if not value]
    optimiser.step()
    assert float(loss(task, model(x), y).detach()) < float(before.detach())


@zoo
def test_it_traces_and_the_graph_computes_the_same(
    name: str, options: dict[str, Any], shape: tuple[int, ...], output: tuple[int, ...], size: int
) -> None:
    model = built(name, options).eval()
    graph = mase.trace(model, (sample(shape),))
    x = sample(shape, batch=3)
    with torch.no_grad():
        assert torch.equal(graph(x), model(x))
    linears = sum(isinstance(part, nn.Linear) for part in model.modules())
    assert sum(node.kind == "linear" for node in graph.operators()) >= linears - (3 if name == "mixtral" else 0)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("lenet", {"size": 10}, "model lenet: size 10; allowed is at least 12"),
        ("resnet", {"depth": 9}, "model resnet: depth 9; allowed are 8, 14, 20, 26"),
        ("resnet", {"depth": 2}, "model resnet: depth 2; allowed are 8"),
        ("autoencoder", {"sizes": [640]}, "model autoencoder: sizes [640]; allowed are two or more"),
        ("vit", {"patch": 5}, "model vit: patch 5; allowed are divisors of size = 32"),
        ("vit", {"heads": 3}, "model vit: dim 64; allowed are multiples of heads = 3"),
        ("llama", {"dim": 100}, "model llama: dim 100; allowed are multiples of 2 * heads = 8"),
        ("llama", {"kv_heads": 3}, "model llama: kv_heads 3; allowed are divisors of heads = 4"),
        ("mixtral", {"top": 5}, "model mixtral: top 5; allowed is at most experts = 4"),
        ("llama", {"layer": 2}, "model llama: unknown option 'layer'; did you mean layers?"),
        ("ds_cnn", {"width": -1}, "model ds_cnn: option 'width': found -1; input should be greater than 0"),
        ("lama", {}, "model: unknown name 'lama'; did you mean llama?"),
    ],
)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, options)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_decoder_sees_no_later_token(name: str) -> None:
    model = built(name, {}).eval()
    x = torch.randint(256, (1, 16))
    changed = x.clone()
    changed[0, 10] = (x[0, 10] + 1) % 256
    with torch.no_grad():
        y, z = model(x), model(changed)
    assert torch.allclose(y[:, :10], z[:, :10], atol=1e-5)
    assert not torch.allclose(y[:, 10:], z[:, 10:], atol=1e-3)


def test_rotary_turns_by_the_position() -> None:  # head size 4, base 100: angles p and p / 10
    from mase.models.llama import Rotary, tables

    cos, sin = tables(3, 4, 100.0)
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(3, 4)
    p = torch.arange(3.0)
    expected = torch.stack((p.cos(), -(p / 10).sin(), p.sin(), (p / 10).cos()), 1)
    assert torch.allclose(Rotary()(x, cos, sin), expected, atol=1e-6)


def test_a_mixture_is_the_sum_of_its_two_best_experts() -> None:
    from mase.models.mixtral import Mixture

    torch.manual_seed(0)
    layer = Mixture(dim=8, hidden=6, experts=5, top=2)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        y = layer(x)[0]
        for token, found in zip(x[0], y, strict=True):
            best = layer.router(token).softmax(0).topk(2)
            expected = torch.zeros(8)
            for share, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
                gate, up = (layer.experts.gate_up[expert] @ token).chunk(2)
                expected += share * (layer.experts.down[expert] @ (nn.functional.silu(gate) * up))
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_tied_weights_are_one_parameter() -> None:
    model = build("llama", {"tied": True})
    assert model.get_parameter("head.weight") is model.get_parameter("embedding.weight")
    assert sum(p.numel() for p in model.parameters()) == 619_392 - 256 * 128


def test_the_state_of_s6la_reaches_from_the_first_layer_to_the_last() -> None:
    model = built("s6la", {"layers": 3}).eval()
    x = sample(IMAGE, 1)
    seen = [model.get_submodule(f"layers.{i}") for i in range(3)]
    states: list[Tensor] = []
    for layer in seen:
        layer.register_forward_hook(lambda _, __, out: states.append(out[1]))
    with torch.no_grad():
        model(x)
        model.get_parameter("start").add_(1.0)
        model(x)
    assert all(not torch.equal(before, after) for before, after in zip(states[:3], states[3:], strict=True))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("mlp", {"sizes": [64, 10**9, 10]}, r"option 'sizes\.1': found 1000000000; input should be less than or equal"),
        ("mlp", {"sizes": [10**6] * 4}, "model mlp: has more than 2,147,483,648 numbers with these options"),
        ("mlp", {"sizes": [8] * 2000}, "option 'sizes': "),
        ("llama", {"layers": 10**9}, "option 'layers': found 1000000000; input should be less than or equal to 1024"),
        ("llama", {"layers": 1024, "hidden": 10**6}, "model llama: has more than"),
        ("vit", {"size": 2**20, "patch": 1}, "model vit: has more than"),
        ("mixtral", {"experts": 2**20, "hidden": 2**20}, "model mixtral: has more than"),
        ("lenet", {"size": 2**20}, "model lenet: has more than"),
        ("mobilenet", {"width": 1e5}, "model mobilenet: has more than"),
        ("mobilenet", {"width": float("inf")}, "option 'width': found inf; input should be a finite number"),
    ],
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_built(
    name: str, options: dict[str, object], text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        build(name, options)


@pytest.mark.parametrize("name", ["mlp", "llama", "vit", "mobilenet"])
def test_the_check_of_the_size_draws_no_random_numbers(name: str) -> None:
    torch.manual_seed(0)
    found = build(name)
    torch.manual_seed(0)
    wanted = MODELS[name]()
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))
