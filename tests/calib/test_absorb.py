"""Folding factors leaves float outputs as they are, on every family of models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mase import interpreter
from mase.calib.absorb import Pair, pairs
from mase.frontend import trace
from mase.graph import Graph
from tests.ptq.models import graph, tokens


def gemma() -> Graph:
    from transformers import GemmaConfig, GemmaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    config = GemmaConfig(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32, **sizes)
    torch.manual_seed(0)
    model = GemmaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.uniform_(weight, -0.5, 0.5)
    return trace(model.train(False), tokens(2))[0]


def gpt2() -> Graph:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32, **ids))
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight)
    return trace(model.train(False), tokens(2))[0]


def tied() -> Graph:
    return graph("llama", tied=True)


MODELS: dict[str, tuple[Callable[[], Graph], int]] = {  # pairs: four a block, and the norm before a head of its own
    "llama": (lambda: graph("llama"), 13),
    "tied": (tied, 12),
    "mixtral": (lambda: graph("mixtral"), 10),
    "gemma": (gemma, 8),
    "gpt2": (gpt2, 4),
}


def factors(pair: Pair, seed: int) -> Tensor:
    return pair.tied(0.3 + 3 * torch.rand(pair.features, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("name", MODELS)
def test_folding_leaves_float_outputs_as_they_are(name: str) -> None:
    make, count = MODELS[name]
    model, ids = make(), tokens(2, seed=5)
    found, before = pairs(model), interpreter.train(model, (ids,)).detach()
    assert len(found) == count
    for i, pair in enumerate(found):
        new = pair.folded(model, factors(pair, i))
        assert not any(torch.equal(new[key], model.tensors[key]) for key in (pair.weight, *pair.consumers))
        model = model.replace(tensors=new).verify()
    after = interpreter.train(model, (ids,)).detach()
    assert float((after - before).abs().max()) < 1e-5 * float(before.abs().max())


def test_each_pair_has_all_that_reads_its_edge() -> None:
    first = pairs(graph("llama"))[:4]
    assert [(p.absorber, p.norm, len(p.consumers)) for p in first] == [
        ("blocks_0_norm1", True, 3),
        ("blocks_0_attention_value", False, 1),
        ("blocks_0_norm2", True, 2),
        ("blocks_0_feed_up", False, 1),
    ]
    assert [pair.head for pair in first] == [0, 8, 0, 0]
    mixture = [p for p in pairs(graph("mixtral")) if p.absorber == "blocks_0_norm2"]
    assert len(mixture) == 1 and len(mixture[0].consumers) == 2  # the router, and gate and up of all experts


def test_heads_that_share_a_value_share_its_factors() -> None:
    pair = pairs(graph("llama"))[1]
    assert pair.rows is not None
    assert pair.rows.reshape(4, 8)[:, 0].tolist() == [0, 0, 8, 8]
    s = pair.tied(torch.arange(1.0, 33)).reshape(4, 8)
    assert torch.equal(s[0], s[1]) and torch.equal(s[2], s[3])
    assert torch.allclose(s[0, 0], torch.tensor(9.0).sqrt())


def test_what_others_read_or_share_is_no_pair() -> None:
    class Branch(nn.Module):
        def __init__(self, gelu: bool) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.act = nn.GELU() if gelu else nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            result: Tensor = self.b(self.act(self.a(y))) + y
            return result

    found = {gelu: pairs(trace(Branch(gelu).eval(), torch.randn(2, 3, 8))[0]) for gelu in (True, False)}
    assert found[True] == []  # the norm is read by the sum too, and GELU does not let a factor through
    assert [pair.absorber for pair in found[False]] == ["a"]  # ReLU does
    assert not any("embedding" in pair.weight for pair in pairs(tied()))


@pytest.mark.parametrize(("gate", "absorber"), [("mul", ["down", "b"]), ("div", ["down"]), ("first", ["down", "a"])])
def test_a_product_takes_factors_on_one_side_and_a_quotient_on_none(gate: str, absorber: list[str]) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.down, self.head = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x)
            y = {"mul": lambda: a.sigmoid() * b, "div": lambda: a.sigmoid() / b, "first": lambda: a * b.sigmoid()}[
                gate
            ]()
            result: Tensor = self.head(self.down(y))
            return result

    model = trace(Gated().eval(), torch.randn(2, 3, 8))[0]
    assert sorted(pair.absorber for pair in pairs(model)) == sorted(absorber)


def test_a_norm_that_others_read_behind_a_function_is_no_absorber() -> None:
    class Shared(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            self.shared, self.norm, self.a = shared, nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            result: Tensor = self.a(y.relu())
            return result + y if self.shared else result

    x = torch.randn(2, 3, 8)
    assert [len(pairs(trace(Shared(shared).eval(), x)[0])) for shared in (False, True)] == [1, 0]
