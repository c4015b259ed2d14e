"""The residual stream is turned: float results stay, outliers spread, ties end, and what does not turn is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mase
from mase import interpreter
from mase.errors import ConfigError
from mase.graph import Graph
from passes.ptq.residual import rotated, stream_of
from tests.calib.test_absorb import gemma, gpt2
from tests.ptq.models import graph, tokens


def run(model: Graph) -> Tensor:
    return interpreter.train(model, (tokens(2, seed=5),)).detach()


def uneven(model: Graph) -> Graph:
    """Return a model whose norms are not 1, and some features of whose stream are large."""
    draw = torch.Generator().manual_seed(3)
    new = {k: 0.5 + torch.rand(x.shape, generator=draw) for k, x in model.tensors.items() if "norm" in k}
    loud = model.tensors["embedding.weight"].detach().clone()
    loud[:, ::11] *= 30
    return model.replace(tensors={**new, "embedding.weight": loud})


MODELS = {
    "llama": lambda: uneven(graph("llama")),
    "tied": lambda: uneven(graph("llama", tied=True)),
    "odd": lambda: uneven(graph("llama", dim=48)),
    "mixtral": lambda: uneven(graph("mixtral", layers=2)),
    "gemma": gemma,
}


@pytest.mark.parametrize("name", MODELS)
def test_float_results_stay_as_they_are(name: str) -> None:
    model = MODELS[name]()
    turned = rotated(model)
    before, after = run(model), run(turned)
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())
    stream = stream_of(turned)
    assert all(set((n.tensor("weight") + n.record.attrs.get("offset", 0)).tolist()) == {1.0} for n in stream.norms)
    changed = [k for k, x in model.tensors.items() if not torch.equal(x, turned.tensors[k])]
    blocks = 2 if name in ("mixtral", "gemma") else 3
    around = 2 if name in ("tied", "gemma") else 3  # the last norm, embeddings, and a head of its own
    assert len(changed) == blocks * (2 + 4 + 3) + around


def test_an_outlier_of_the_stream_spreads() -> None:
    model = uneven(graph("llama"))

    def peak(g: Graph) -> float:
        size = g.tensors["embedding.weight"].norm(dim=0)
        return float(size.max() / size.mean())

    assert peak(rotated(model)) < 0.6 * peak(model)


def test_tied_embeddings_become_two_tensors() -> None:
    model = uneven(graph("llama", tied=True))
    assert model.node("head").record.key("weight") == "embedding.weight"
    turned = rotated(model)
    assert turned.node("head").record.key("weight") == "head.weight"
    assert turned.node("embedding").record.key("weight") != "head.weight"
    built, report = mase.ptq(turned, [{"rtn": {"format": "int4g16a"}}], also=["head"])  # no part shares its weights now
    assert "head" in report.packed and bool(torch.isfinite(built(tokens(2))).all())


def test_it_helps_rounding_where_features_differ() -> None:
    model, x = uneven(graph("llama")), tokens(4, seed=9)
    rtn = [{"rtn": {"format": "int3c"}}]
    errors = [float((mase.ptq(g, rtn)[0](x) - model(x)).square().mean()) for g in (model, rotated(model))]
    assert errors[1] < errors[0]


def test_the_seed_decides_and_what_does_not_turn_is_named() -> None:
    model = graph("llama")
    first, second, again = (rotated(model, seed).tensors["embedding.weight"] for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    with pytest.raises(ConfigError, match=r"^rotation: no norm turns with its input"):
        rotated(gpt2())

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            result: Tensor = self.b(self.norm(y)) + y.sigmoid()
            return result

    odd = mase.trace(Scaled().eval(), torch.randn(2, 3, 8))
    with pytest.raises(ConfigError, match=r"^rotation: node .* \(activation.*\): reads the residual stream"):
        rotated(odd)
